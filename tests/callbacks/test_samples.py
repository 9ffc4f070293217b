import json

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from aer_lightning.callbacks import FixedCoefficient
from aer_lightning.callbacks.by_label import LabelFigures
from aer_lightning.callbacks.history import MetricsHistory
from aer_lightning.callbacks.samples import SampleLog, spread
from aer_lightning.errors import ConfigError
from aer_lightning.rollout import Sample


def lines(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_rows_tell_what_was_sampled(runs, tmp_path):
    _, _, data = runs.fit([FixedCoefficient(0.25), SampleLog(every=1, limit=None)])
    rows = lines(tmp_path)
    assert [r["rollout"] for r in rows] == [0] * 16 + [1] * 16
    samples = sorted(data.last_samples, key=lambda s: s.sequence)
    for row, s in zip(rows[16:], samples, strict=True):
        assert (row["id"], row["label"], row["completion"], row["outcome"]) == (s.prompt_id, s.label, s.text, s.outcome)
        assert (row["reward"], row["advantage"], row["extracted"]) == (s.reward, s.advantage, s.extracted)
        assert row["answer"] == s.answer and row["coefficient"] == pytest.approx(0.25)
        assert row["token_entropies"] == pytest.approx(s.entropy.tolist(), abs=1e-4)
        assert len(row["token_texts"]) == row["tokens"] and set(s.text) <= set("".join(row["token_texts"]))
        assert row["entropy"] == pytest.approx(float(s.entropy.mean()), abs=1e-6)
        assert row["tokens"] == len(s.token_ids) and row["finish_reason"] == s.finish_reason
        assert row["prompt"] == data.prompts[int(s.prompt_id.rsplit("/", 1)[1])].text


def test_a_run_that_goes_on_inside_a_rollout_writes_the_same_rows(runs, tmp_path):
    """Of two optimizer steps the first is done before: its coefficients and samples are the checkpoint's."""
    data = {"optimizer_steps_per_rollout": 2, "rollouts_per_epoch": 1}
    keep = ModelCheckpoint(dirpath=tmp_path / "c", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    stack = [FixedCoefficient(0.25), LabelFigures(), MetricsHistory(), SampleLog(every=1, limit=None)]
    runs.fit([*stack, keep], data=runs.data(**data))
    whole, rows = lines(tmp_path), (tmp_path / "metrics.csv").read_text().splitlines()[0]
    (tmp_path / "samples.jsonl").unlink()
    stack = [FixedCoefficient(0.25), LabelFigures(), MetricsHistory(), SampleLog(every=1, limit=None)]
    runs.fit(stack, data=runs.data(**data), ckpt_path=tmp_path / "c" / "step=1.ckpt")
    assert lines(tmp_path) == whole and all(row["coefficient"] == 0.25 for row in whole)
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == rows


def test_every_and_limit(runs, tmp_path):
    runs.fit([SampleLog(every=2, limit=4)], max_epochs=2)
    rows = lines(tmp_path)
    assert [r["rollout"] for r in rows] == [0] * 4 + [2] * 4
    assert len({r["id"] for r in rows[:4]}) == 4, "one of each prompt rather than four of one"


def test_zero_writes_nothing(runs, tmp_path):
    runs.fit([SampleLog(every=0)])
    assert not (tmp_path / "samples.jsonl").exists()


def test_spread_keeps_order_and_number():
    samples = [Sample("p", "", i, i, [1], [2], None, "stop") for i in (4, 2, 0, 1, 3)]
    assert [s.sequence for s in spread(samples, 2)] == [0, 2]
    assert [s.sequence for s in spread(samples, 9)] == [s.sequence for s in spread(samples, None)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("kwargs", "name"), [({"every": -1}, "samples.every"), ({"limit": 0}, "samples.limit")])
def test_impossible_options(kwargs, name):
    with pytest.raises(ConfigError, match=f"^{name}"):
        SampleLog(**kwargs)
