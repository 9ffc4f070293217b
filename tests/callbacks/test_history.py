import math

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from aer_lightning.callbacks import EntropyAnchor, FixedCoefficient
from aer_lightning.callbacks.history import MetricsHistory
from aer_lightning.callbacks.initial_validation import InitialValidation
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.reporting.run_metrics import read_metrics, read_rows


def stack():
    return [EntropyAnchor(), FixedCoefficient(0.01), InitialValidation(), MetricsHistory()]


def timeless(folder):
    """Everything logged but times; a row that Lightning repeats at the next optimizer step (which a resumed run cannot) counts once."""
    rows = [{k: v for k, v in row.items() if "second" not in k} for row in read_rows(folder / "metrics.csv")]
    seen = set()
    return [row for row in rows if (index := row.get("rollout/index")) is None or not (index in seen or seen.add(index))]


@pytest.mark.parametrize("every", [{"every_n_epochs": 1}, {"every_n_train_steps": 4}], ids=["epoch", "mid-epoch"])
@pytest.mark.parametrize("same_folder", [True, False])
def test_metrics_of_a_resumed_run_are_those_of_one_run(runs, tmp_path, every, same_folder):
    options = {"optimizer_steps_per_rollout": 2, "rollouts_per_epoch": 3}

    def fit(folder, epochs, extra=(), ckpt=None):
        data = runs.data(**options, evaluation=[CountdownPrompts(split="validation", numbers=(2,), size=2)])
        logger = CSVLogger(tmp_path / folder, name="", version="")
        runs.fit([*stack(), *extra], data=data, max_epochs=epochs, ckpt_path=ckpt, logger=logger)
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


def test_without_a_csv_logger_nothing_is_kept(runs, tmp_path):
    callback = MetricsHistory()
    runs.fit([callback])
    assert callback.state_dict() == {"rows": []} and not (tmp_path / "metrics.csv").exists()
