import pytest

from aer_lightning.data.rewards import Grader, Outcome
from aer_lightning.data.rewards.graders import ExactGrader
from aer_lightning.errors import ConfigError


@pytest.mark.parametrize(
    ("gold", "completion", "right"),
    [
        ("Paris", "Paris", True),
        ("Paris", r"The capital is \boxed{\text{Paris}}.", True),
        ("Paris", "The answer is Paris.", True),
        ("Paris", 'Answer: "paris"', True),
        ("New York", "Answer: New   York", True),
        (["Paris", "City of Light"], "#### City of Light", True),
        ("北京", "答案: 北京", False),  # no marker of this grader, and not the whole text
        ("42", r"\boxed{42}", True),
        (42, "42", True),
        ("Paris", "London", False),
        ("Paris", "Paris or London", False),
        ("Paris", r"\boxed{Paris} or \boxed{London}", False),
        ("Paris", "Is it Paris?", False),
        ("42", r"\boxed{42.0}", False),
    ],
)
def test_exact_text(gold, completion, right):
    assert ExactGrader().grade(completion, gold).reward == float(right)


def test_options():
    assert ExactGrader(ignore_case=False).grade("paris", "Paris").outcome is Outcome.WRONG
    assert ExactGrader(ignore_edges=False).grade("Paris.", "Paris").outcome is Outcome.WRONG
    assert ExactGrader("boxed").grade("The answer is Paris", "Paris").outcome is Outcome.UNPARSED
    assert ExactGrader("final_answer").grade(r"\boxed{Paris}", "Paris").outcome is Outcome.UNPARSED
    assert ExactGrader("whole").grade("The answer is Paris", "Paris").outcome is Outcome.WRONG
    with pytest.raises(ConfigError, match="extract"):
        ExactGrader("somewhere")
    assert isinstance(ExactGrader(), Grader)


@pytest.mark.parametrize("gold", ["", " ", "...", None, True, [], ["a", ""], {"a": 1}])
def test_bad_golds(gold):
    assert ExactGrader().check_gold(gold)
    assert ExactGrader().grade("a", gold).outcome is Outcome.BAD_GOLD
