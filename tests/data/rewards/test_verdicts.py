"""Kinds of answers that graders get wrong: languages, equations, approximations, commas, sets, alternatives, names, and hacks."""

import json
from pathlib import Path

import pytest

from aer_lightning.data.rewards import MathGrader, Outcome

ROWS = [json.loads(line) for line in Path(__file__).with_name("verdicts.jsonl").open(encoding="utf-8")]


@pytest.mark.parametrize("kind", sorted({row["kind"] for row in ROWS}))
def test_verdicts(kind):
    grader = MathGrader()
    wrong = []
    for row in ROWS:
        if row["kind"] == kind:
            grade = grader.grade(row["prediction"], row["gold"])
            if grade.reward != row["expected"] or grade.outcome in (Outcome.ERROR, Outcome.TIMEOUT):
                wrong.append((row["gold"], row["prediction"], grade))
    assert wrong == []


@pytest.mark.parametrize(
    ("gold", "prediction", "tolerance", "reward"),
    [
        ("1/3", "0.333", 0.0, 0.0),
        ("1/3", "0.333", 0.001, 0.0),
        ("1/3", "0.3333", 0.001, 1.0),
        ("9.81", "9.8", 0.01, 1.0),
        (r"\sqrt{2}", "1.414", 0.001, 1.0),
        (r"\sqrt{2}", "1.5", 0.001, 0.0),
        ("0", "0.0001", 0.01, 0.0),
        ("(1/3, 2/3)", r"\boxed{(0.3333, 0.6667)}", 0.001, 1.0),
    ],
)
def test_a_rounded_number_is_paid_within_the_tolerance_only(gold, prediction, tolerance, reward):
    assert MathGrader(tolerance=tolerance).grade(prediction, gold).reward == reward


def test_a_number_of_last_number_is_a_number():
    grader = MathGrader(extract="last_number")
    assert grader.grade(r"so it is \frac{3}{4} and $x+1$ of 7", "7").extracted == "7"
    assert grader.grade("it is 14 apples, that is 8 + 6", "14").reward == 0.0
