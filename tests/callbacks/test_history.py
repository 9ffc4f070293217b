import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from aer_lightning.callbacks import EntropyAnchor, FixedCoefficient
from aer_lightning.callbacks.history import MetricsHistory
from aer_lightning.callbacks.initial_validation import InitialValidation
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.errors import ConfigError
from aer_lightning.reporting.run_metrics import read_metrics, read_rows


def stack():
    return [EntropyAnchor(), FixedCoefficient(0.01), MetricsHistory(), InitialValidation()]


def timeless(folder):
    """Everything logged but times."""
    return [{k: v for k, v in row.items() if "second" not in k} for row in read_rows(folder / "metrics.csv")]


@pytest.mark.parametrize("every", [{"every_n_epochs": 1}, {"every_n_train_steps": 4}], ids=["epoch", "mid-epoch"])
@pytest.mark.parametrize("same_folder", [True, False])
def test_metrics_of_a_resumed_run_are_those_of_one_run(runs, tmp_path, every, same_folder):
    options = {"optimizer_steps_per_rollout": 2, "rollouts_per_epoch": 3}

    def fit(folder, epochs, extra=(), ckpt=None):
        data = runs.data(**options, evaluation=[CountdownPrompts(split="validation", numbers=(2,), size=2)])
        runs.fit([*stack(), *extra], data=data, max_epochs=epochs, ckpt_path=ckpt, default_root_dir=str(tmp_path / folder))
        return tmp_path / folder

    whole = timeless(fit("whole", 2))
    save = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_top_k=-1, filename="{step}", **every)
    fit("first", 1, [save])
    path = tmp_path / "ckpt" / ("step=6.ckpt" if "every_n_epochs" in every else "step=4.ckpt")
    state = torch.load(path, weights_only=True)
    assert any(key.startswith("MetricsHistory") for key in state["callbacks"])
    resumed = fit("first" if same_folder else "second", 2, ckpt=path)
    assert timeless(resumed) == whole
    metrics = read_metrics(resumed)
    assert metrics.index.tolist() == list(range(6)) and [e.rollouts for e in metrics.evaluations] == [0, 3, 6]
    assert not math.isnan(metrics.anchor)


class Extra(pl.Callback):
    """Logs a figure of its own from the second rollout on."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.info.index:
            pl_module.log("mine", 5.0)


def test_a_row_for_each_rollout_and_evaluation_whatever_the_loggers(runs, tmp_path):
    data = runs.data(evaluation=[CountdownPrompts(split="validation", numbers=(2,), size=2)], rollouts_per_epoch=2)
    runs.fit([Extra(), *stack()], data=data, max_epochs=2, log_every_n_steps=50)
    rows = read_rows(tmp_path / "metrics.csv")
    assert [row.get("rollout/index") for row in rows] == [None, 0, 1, None, 2, 3, None]
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 0), (0, 0), (0, 1), (0, 2), (1, 2), (1, 3), (1, 4)]
    assert [row.get("mine") for row in rows] == [None, None, 5, None, 5, 5, None], "a column that came later"
    assert all(("val/countdown/pass@1" in row) != ("train/loss" in row) for row in rows)
    head, first = (tmp_path / "metrics.csv").read_text().splitlines()[:2]
    assert head.startswith("epoch,step,val/") and first.startswith("0,0,")


def test_a_csv_logger_in_its_place_is_refused(runs, tmp_path):
    with pytest.raises(ConfigError, match=r"trainer\.logger.*CSVLogger"):
        runs.fit([MetricsHistory()], logger=CSVLogger(tmp_path, name="", version=""))
    runs.fit([MetricsHistory()], logger=CSVLogger(tmp_path, name="csv", version=""), max_epochs=1)
    ours = read_rows(tmp_path / "metrics.csv")
    theirs = read_rows(tmp_path / "csv" / "metrics.csv")
    assert [set(row) for row in ours] == [set(row) for row in theirs] and len(ours) == 2
    assert [row["train/loss"] for row in ours] == [row["train/loss"] for row in theirs]
