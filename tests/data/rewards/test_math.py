import json
import logging
import pickle
from pathlib import Path

import pytest
from answers import BAD_GOLDS, CHEAP_BOMBS, GOOD_GOLDS, RIGHT, UNEVALUATED_42, WRONG

from aer_lightning.data.rewards import Grader, MathGrader, Outcome
from aer_lightning.errors import ConfigError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
GRADER = MathGrader()
BENCHMARK = MathGrader(evaluated=False)
logging.getLogger("math_verify").setLevel(logging.ERROR)


@pytest.mark.parametrize(("gold", "completion"), RIGHT)
def test_right_answers_are_paid(gold, completion):
    grade = GRADER.grade(completion, gold)
    assert grade.outcome is Outcome.CORRECT, grade


@pytest.mark.parametrize("completion", UNEVALUATED_42)
def test_an_expression_with_the_value_is_paid_where_asked_for_only(completion):
    assert GRADER.grade(completion, "42").outcome is Outcome.WRONG
    assert BENCHMARK.grade(completion, "42").outcome is Outcome.CORRECT


@pytest.mark.parametrize(("gold", "completion"), WRONG)
def test_wrong_answers_and_hedges_are_not_paid(gold, completion):
    grade = GRADER.grade(completion, gold)
    assert grade.outcome in (Outcome.WRONG, Outcome.UNPARSED), grade


@pytest.mark.parametrize("completion", CHEAP_BOMBS)
def test_bombs_are_refused_before_the_parser(completion, monkeypatch):
    from aer_lightning.data.rewards import symbolic

    def never(answer):
        raise AssertionError(f"the parser saw {answer[:40]}")

    monkeypatch.setattr(symbolic, "parse_latex", never)
    monkeypatch.setattr(symbolic, "expressions_equal", lambda gold, pred: never(pred))
    monkeypatch.setattr(symbolic, "number_equals_constant", lambda number, text: never(text))
    assert GRADER.grade(completion, "42").outcome in (Outcome.UNPARSED, Outcome.WRONG)


@pytest.mark.parametrize("gold", BAD_GOLDS, ids=lambda gold: repr(gold)[:20])
def test_a_bad_gold_answer_pays_nobody(gold):
    assert GRADER.check_gold(gold)
    for completion in (str(gold), rf"\boxed{{{gold}}}", "", r"\boxed{}", r"\boxed{1}"):
        assert GRADER.grade(completion, gold).outcome is Outcome.BAD_GOLD


@pytest.mark.parametrize("gold", GOOD_GOLDS, ids=str)
def test_a_good_gold_answer_is_right_against_itself(gold):
    assert GRADER.check_gold(gold) is None
    assert GRADER.grade(rf"\boxed{{{gold}}}", gold).outcome is Outcome.CORRECT


def test_extract_decides_where_the_answer_is():
    text = r"First \boxed{1}. The answer is 2. It took 3 minutes."
    verdicts = {
        mode: [MathGrader(extract=mode).grade(text, gold).reward for gold in ("1", "2", "3")]
        for mode in ("boxed", "final_answer", "last_number", "auto")
    }
    assert verdicts == {"boxed": [1, 0, 0], "final_answer": [0, 1, 0], "last_number": [0, 0, 1], "auto": [1, 0, 0]}
    assert MathGrader(extract="boxed").grade("The answer is 2", "2").outcome is Outcome.UNPARSED


def test_caps_and_options_are_used():
    assert MathGrader(max_chars=12).grade(r"\boxed{42} and so on and on", "42").outcome is not Outcome.CORRECT
    with pytest.raises(ConfigError, match="extract"):
        MathGrader(extract="somewhere")
    with pytest.raises(ConfigError, match="max_chars"):
        MathGrader(max_chars=0)


def test_it_is_a_grader_that_survives_pickling():
    copy = pickle.loads(pickle.dumps(MathGrader(extract="boxed")))
    assert isinstance(copy, Grader)
    assert copy.isolated
    assert copy.extract == "boxed"


def test_the_verdict_says_what_was_extracted_and_why():
    assert GRADER.grade(r"so \boxed{\frac{1}{2}}", "0.5").extracted == r"\frac{1}{2}"
    assert "10^8000" in GRADER.grade(CHEAP_BOMBS[0], "42").reason
    assert GRADER.grade("no idea", "42").reason == "no answer found"


def load(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return [json.loads(line) for line in path.open()]


@pytest.mark.parametrize("name", ["aime2024", "amc2023", "math500"])
def test_every_benchmark_gold_answer_is_good_and_right_against_itself(name):
    for row in load(f"{name}.jsonl"):
        assert GRADER.check_gold(row["answer"]) is None, row["answer"]
        assert GRADER.grade(rf"Therefore \boxed{{{row['answer']}}}.", row["answer"]).reward == 1.0, row["answer"]


def test_labelled_outputs_of_real_models():
    rows = load("verifier_llm_outputs.jsonl")
    right = sum(GRADER.grade(row["prediction"], row["gold"]).reward == row["expected"] for row in rows)
    assert right / len(rows) >= 0.999


def test_unit_cases_of_public_graders():
    rows = [row for row in load("verifier_cases.jsonl") if not row.get("policy")]
    verdicts = []
    for row in rows:
        text = rf"\boxed{{{row['prediction']}}}" if row["style"] == "answer" else row["prediction"]
        verdicts.append((BENCHMARK.grade(text, row["gold"]).reward, row["expected"], row["id"]))
    assert [case for reward, expected, case in verdicts if reward > expected] == []
    assert sum(reward == expected for reward, expected, _ in verdicts) / len(rows) >= 0.99


@pytest.mark.parametrize(
    ("prediction", "outcome"),
    [(r"\boxed{5\%, 2+3}", "wrong"), (r"\boxed{2+3, 5\%}", "wrong"), (r"\boxed{5, 6}", "wrong"), (r"\boxed{5, 2+3}", "correct")],
)
def test_several_answers_are_one_only_if_they_equal_each_other(prediction, outcome):
    assert BENCHMARK.grade(prediction, "5").outcome.value == outcome
