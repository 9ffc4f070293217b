import json

import pytest

from aer_lightning.callbacks.evaluation_log import EvaluationLog, count, interleave
from aer_lightning.callbacks.initial_validation import InitialValidation
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.errors import ConfigError
from aer_lightning.rollout import EvaluationBatch


def sources():
    return [CountdownPrompts(split="validation", numbers=(2, 3), size=4), CountdownPrompts(split="validation", size=3, name="other")]


def rows(folder):
    return [json.loads(line) for line in (folder / "evaluation.jsonl").read_text().splitlines()]


def test_counts_of_a_batch():
    batch = EvaluationBatch(
        "s",
        labels=["easy", "hard"],
        prompt_ids=["a", "b"],
        outcomes=[["correct", "correct", "correct", "wrong"], ["wrong", "unparsed", "timeout", "wrong"]],
        answers=[["1+2", "2+1", "1+2", "9"], ["1", None, None, "1"]],
        lengths=[[3, 3, 3, 4], [1, 2, 3, 4]],
        truncated=[[False] * 4, [True, False, True, False]],
    )
    shared = {"source": "s", "n": 4}
    assert count(batch) == [
        {**shared, "id": "a", "label": "easy", "correct": 3, "distinct_correct": 2, "tokens": 13, "truncated": 0},
        {**shared, "id": "b", "label": "hard", "correct": 0, "distinct_correct": 0, "tokens": 10, "truncated": 2},
    ]


def test_every_evaluation_of_a_run_is_written(runs, tmp_path):
    trainer, *_ = runs.fit([InitialValidation(), EvaluationLog()], data=runs.data(evaluation=sources(), eval_samples=4), max_epochs=2)
    found = rows(tmp_path)
    assert [(r["step"], r["rollouts"]) for r in found[::7]] == [(0, 0), (2, 2), (4, 4)] and len(found) == 21
    assert [r["source"] for r in found[:7]] == ["countdown"] * 4 + ["other"] * 3
    assert [r["id"] for r in found[:4]] == [f"countdown/validation/0/{i}" for i in range(4)]
    last = [r for r in found if r["step"] == 4 and r["source"] == "countdown"]
    assert {r["n"] for r in last} == {4} and {r["label"] for r in last} == {"2 numbers", "3 numbers"}
    logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
    assert sum(r["correct"] for r in last) / 16 == pytest.approx(logged["val/countdown/pass@1"])
    assert sum(r["tokens"] for r in last) / 16 == pytest.approx(logged["val/countdown/response_length"])


def test_every_keeps_the_one_before_training(runs, tmp_path):
    data = runs.data(evaluation=sources()[:1], rollouts_per_epoch=1)
    runs.fit([InitialValidation(), EvaluationLog(every=2)], data=data, max_epochs=4)
    assert sorted({r["step"] for r in rows(tmp_path)}) == [0, 2, 4]


def test_zero_writes_nothing(runs, tmp_path):
    runs.fit([EvaluationLog(every=0)], data=runs.data(evaluation=sources()[:1]))
    assert not (tmp_path / "evaluation.jsonl").exists()
    with pytest.raises(ConfigError, match=r"^evaluation_log\.every"):
        EvaluationLog(every=-1)


def test_rows_of_ranks_come_out_as_on_one():
    whole = [{"source": s, "id": i} for s in "ab" for i in range(5)]
    shares = [[r for r in whole if r["id"] % 2 == rank] for rank in range(2)]
    assert interleave(shares) == whole
