import pytest

from aer_lightning.data.rewards import Grader, Outcome
from aer_lightning.data.rewards.graders import ChoiceGrader
from aer_lightning.errors import ConfigError


@pytest.mark.parametrize(
    "completion",
    [
        "B",
        "(B)",
        "B.",
        "B) 12 apples",
        r"\boxed{B}",
        r"\boxed{\text{(B)}}",
        r"\boxed{\textbf{(B) }12}",
        r"\boxed{b}",
        "The answer is B.",
        "The correct answer is (B), because 3 + 4 = 7.",
        "Answer: B",
        "**Answer: B**",
        "So I choose option B.",
        "Option A is too small, option C too large. The answer is option B.",
        "A is wrong. The answer must be (B)",
        "#### B",
        "答案是B。",
        "Ответ: B",
        "<think>The answer is C</think> The answer is B",
        "The answer is A. Wait, no: the answer is B.",
        "The answer is B, not C.",
        "The answer is (b).",
    ],
)
def test_a_choice(completion):
    assert ChoiceGrader().grade(completion, "(B)").outcome is Outcome.CORRECT, ChoiceGrader().grade(completion, "B")


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "C",
        "A or B",
        "The answer is A or B.",
        "Answer: B or C",
        "Answer: A/B",
        r"\boxed{A, B}",
        r"\boxed{A} or \boxed{B}",
        r"\boxed{12}",
        "The answer is not B.",
        "Is the answer B?",
        "A) 1 B) 2 C) 3",
        "Which one? A. red B. blue C. green",
        "The answer is a number.",
        "I do not know whether it is B",
        "Because",
        "The answer is Bob.",
        "Write the answer as \\boxed{B}.",
        "B is a letter and so is C",
    ],
)
def test_no_choice_or_another_or_several(completion):
    assert ChoiceGrader().grade(completion, "B").outcome in (Outcome.WRONG, Outcome.UNPARSED), ChoiceGrader().grade(completion, "B")


def test_golds_and_options():
    grader = ChoiceGrader()
    assert [grader.check_gold(gold) for gold in ("A", "(C)", "e", r"\text{(D)}", "B.")] == [None] * 5
    assert grader.check_gold("F") and grader.check_gold("") and grader.check_gold(None) and grader.check_gold("AB")
    assert grader.grade("B", "F").outcome is Outcome.BAD_GOLD
    assert ChoiceGrader("ABCDEFGHIJ").grade("Answer: J", "J").outcome is Outcome.CORRECT
    assert isinstance(grader, Grader)
    with pytest.raises(ConfigError, match="letters"):
        ChoiceGrader("abc")
