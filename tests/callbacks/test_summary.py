import json
import time

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from aer_lightning.callbacks import DifficultyCoefficient, EntropyAnchor, GlobalCoefficient
from aer_lightning.callbacks.history import MetricsHistory
from aer_lightning.callbacks.initial_validation import InitialValidation
from aer_lightning.callbacks.summary import Summary, duration
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.reporting.run_metrics import read_metrics


class Slow(pl.Callback):
    """Makes evaluation take a known time at least."""

    def on_validation_batch_end(self, *args, **kwargs):
        time.sleep(0.2)


def fit(runs, folder, extra=(), ckpt=None, epochs=2, stack=True, history=None):
    history = [MetricsHistory()] if history is None else history
    data = runs.data(evaluation=[CountdownPrompts(split="validation", numbers=(2, 3), size=4)], eval_samples=8)
    parts = [EntropyAnchor(tau=0.8), GlobalCoefficient(), DifficultyCoefficient()] if stack else []
    callbacks = [*parts, *history, *extra, InitialValidation(), Summary()]
    trainer, *_ = runs.fit(callbacks, data=data, max_epochs=epochs, ckpt_path=ckpt, default_root_dir=str(folder))
    return trainer


def read(folder):
    return json.loads((folder / "summary.json").read_text())


def test_summary_tells_the_run(runs, tmp_path, capsys):
    fit(runs, tmp_path, [Slow()])
    run, facts, printed = read_metrics(tmp_path), read(tmp_path), capsys.readouterr().out
    overall, *labels = facts["evaluation"]["countdown"]
    first, last = run.evaluations[0].sources["countdown"], run.evaluations[-1].sources["countdown"]
    assert overall == {
        "label": "",
        "before": {"1": first["pass@1"], "8": first["pass@8"]},
        "after": {"1": last["pass@1"], "8": last["pass@8"]},
    }
    assert [row["label"] for row in labels] == ["2 numbers", "3 numbers"]
    assert labels[1]["after"]["8"] == last["3 numbers/pass@8"]
    entropy = run.column("rollout/entropy")
    assert facts["entropy"]["initial"] == entropy[0] and facts["entropy"]["target"] == pytest.approx(0.8 * entropy[0])
    assert facts["entropy"]["last"] == entropy[-1] and facts["entropy"]["recent"] == pytest.approx(entropy.mean())
    assert facts["alpha"] == run.last("aer/alpha") and facts["rollouts"] == 4
    tokens = (run.column("rollout/response_length") * 16).sum()
    speed, spent = facts["tokens_per_second"], facts["seconds"]
    assert speed["generation"] == pytest.approx(tokens / run.column("rollout/generate_seconds").sum(), rel=1e-6)
    assert speed["training"] == pytest.approx(tokens / spent["training"], rel=1e-6)
    assert spent["evaluation"] >= 0.6 and spent["total"] >= spent["evaluation"] + spent["training"]
    assert facts["files"] == {"metrics": "metrics.csv"} and facts["folder"] == str(tmp_path)
    for text in ("pass@8", "3 numbers", f"H_0 {entropy[0]:.3f}", f"last H {entropy[-1]:.3f}", "alpha", str(tmp_path)):
        assert text in printed


def test_a_plain_run_has_gaps_and_no_errors(runs, tmp_path, capsys):
    fit(runs, tmp_path, stack=False, epochs=1)
    facts = read(tmp_path)
    assert facts["alpha"] is None and facts["entropy"]["target"] is None and facts["entropy"]["initial"] > 0
    assert "H* –" in capsys.readouterr().out


def test_without_history_it_still_ends_well(runs, tmp_path):
    fit(runs, tmp_path, epochs=1, history=[])
    assert read(tmp_path)["rollouts"] == 0 and read(tmp_path)["evaluation"] == {}


def test_a_resumed_run_is_summed_up_as_one(runs, tmp_path):
    save = ModelCheckpoint(dirpath=tmp_path / "ckpt", filename="last")
    fit(runs, tmp_path / "first", [save, Slow()], epochs=1)
    fit(runs, tmp_path / "second", ckpt=tmp_path / "ckpt" / "last.ckpt")
    first, second = read(tmp_path / "first"), read(tmp_path / "second")
    assert second["rollouts"] == 4
    assert second["evaluation"]["countdown"][0]["before"] == first["evaluation"]["countdown"][0]["before"] != {}
    assert second["entropy"]["initial"] == first["entropy"]["initial"]
    assert second["seconds"]["evaluation"] > first["seconds"]["evaluation"] >= 0.4


def test_duration():
    assert [duration(s) for s in (0.4, 61, 3725.6)] == ["0:00:00", "0:01:01", "1:02:06"]
