import pytest

from aer_lightning.data.rewards import MathGrader, Outcome

SAME = [
    ["0.5", r"\frac12", "1/2", r"\dfrac{1}{2}", ".50", "$0.5$"],
    ["1800", "1,800", r"\$1{,}800", "1800.0", "1800 dollars", r"1800\text{ apples}"],
    [r"50\%", "50%", "50 percent"],
    ["x+1", "x + 1", r"x\,+\,1"],
    ["7", "3 + 4 = 7", "x = 7.", "x=3+4=7"],
    [r"10^{9000}", r"10^{9000}"],
]


@pytest.mark.parametrize("answers", SAME, ids=lambda a: a[0])
def test_spellings_of_one_answer_vote_together(answers):
    assert len({MathGrader().answer_form(a) for a in answers}) == 1


def test_different_answers_keep_different_forms():
    answers = [group[0] for group in SAME] + ["50", "-1800", "1801", "0.50001", "x+2", "(1,2)", "12"]
    assert len({MathGrader().answer_form(a) for a in answers}) == len(answers)


def test_equal_forms_have_equal_grades():
    grader = MathGrader()
    for group in SAME[:5]:
        for answer in group:
            assert grader.grade(rf"\boxed{{{answer}}}", group[0]).outcome is Outcome.CORRECT
