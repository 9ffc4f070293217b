import pytest

from aer_lightning.data.shaping import DynamicSampling, Shaping
from aer_lightning.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [False, True, True, True, False]),
        ({"tolerance": 0.1}, [False, False, True, False, False]),
        ({"keep_all_wrong": True}, [True, True, True, True, False]),
        ({"keep_all_wrong": True, "tolerance": 0.1}, [True, True, True, False, False]),
    ],
)
def test_which_groups_stay(options, kept):
    dynamic = DynamicSampling(**options)
    assert [dynamic.keeps(g) for g in (0.0, 0.1, 0.5, 0.9, 1.0)] == kept


@pytest.mark.parametrize(
    ("options", "name"), [({"max_tries": 0}, "max_tries"), ({"tolerance": 0.5}, "tolerance"), ({"tolerance": -0.1}, "tolerance")]
)
def test_options_out_of_range_are_named(options, name):
    with pytest.raises(ConfigError, match=name):
        DynamicSampling(**options)


def test_nothing_is_shaped_unless_asked_for():
    shaping = Shaping()
    assert shaping.advantage == "grpo" and shaping.overlong is None and shaping.dynamic is None and not shaping.mask_truncated
