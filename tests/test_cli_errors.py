import pytest

from aer_lightning.cli_errors import condense, find_user_error
from aer_lightning.errors import ConfigError

NESTED = """Parser key "data":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'x.Data'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'x.Data':
        Parser key "prompts_per_rollout":
          Expected a <class 'int'>. Got value: 1.5
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='prompts_per_rollout', val='1.5')"""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (NESTED, "data.init_args.prompts_per_rollout: Expected a <class 'int'>. Got value: 1.5"),
        ("unrecognized arguments: --trainer.max_epoch", "trainer.max_epoch: no such option; did you mean trainer.max_epochs?"),
        ("unrecognized arguments: --zzz", "zzz: no such option; --print_config shows those there are"),
        ("Option 'temprature' is not accepted", "temprature: no such option; did you mean data.init_args.temperature?"),
        ("Parser key \"config\": File does not exist: 'x'", "config: File does not exist: 'x'"),
        ("something else", "something else"),
    ],
)
def test_messages_of_the_parser_become_one_line(message, expected):
    assert condense(message, ["trainer.max_epochs", "data.init_args.temperature"]) == expected


def test_a_users_error_is_found_among_causes():
    error = ConfigError("rho: wrong")
    try:
        try:
            raise error
        except ConfigError as inner:
            raise ValueError("wrapped") from inner
    except ValueError as outer:
        assert find_user_error(outer) is error
    assert find_user_error(ValueError("x")) is None and find_user_error(None) is None
