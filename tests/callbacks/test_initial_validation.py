import random

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from aer_lightning.callbacks import EntropyAnchor, GlobalCoefficient
from aer_lightning.callbacks.history import MetricsHistory
from aer_lightning.callbacks.initial_validation import InitialValidation
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.reporting.run_metrics import read_rows


class Draws(pl.Callback):
    """Takes random numbers in validation and notes those that training gets."""

    def __init__(self):
        self.training, self.validations, self.modes = [], [], []

    @staticmethod
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def on_validation_batch_end(self, *args, **kwargs):
        self.draw()

    def on_validation_start(self, trainer, pl_module):
        self.validations.append(trainer.global_step)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.training.append(self.draw())
        self.modes.append((trainer.training, torch.is_grad_enabled(), pl_module.policy.training))


def source():
    return [CountdownPrompts(split="validation", numbers=(2, 3), size=4)]


def fit(runs, tmp_path, name, callbacks, ckpt=None, epochs=2, evaluation=True, every=None, **kwargs):
    draws = Draws()
    save = ModelCheckpoint(dirpath=tmp_path / name, save_top_k=-1, filename="{step}", every_n_train_steps=every)
    trainer, module, _ = runs.fit(
        [EntropyAnchor(), GlobalCoefficient(alpha_init=0.1), MetricsHistory(), *callbacks, draws, save],
        data=runs.data(evaluation=source() if evaluation else []),
        max_epochs=epochs,
        ckpt_path=ckpt,
        default_root_dir=str(tmp_path / name),
        **kwargs,
    )
    return trainer, module, draws


def test_training_is_what_it_is_without(runs, tmp_path):
    _, module, draws = fit(runs, tmp_path, "with", [InitialValidation()], every=1)
    _, plain, plain_draws = fit(runs, tmp_path, "without", [], every=1)
    assert draws.validations == [0, 2, 4] and plain_draws.validations == [2, 4]
    assert draws.training[:2] == plain_draws.training[:2], "no random number was used up before the first rollout"
    assert draws.modes == plain_draws.modes == [(True, True, True)] * 4
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True))
    start = runs.module()
    start.configure_model()
    assert not all(torch.equal(a, b) for a, b in zip(module.parameters(), start.parameters(), strict=True)), "there was an update"
    for step in (1, 2, 4):
        a, b = (torch.load(tmp_path / name / f"step={step}.ckpt", weights_only=True) for name in ("with", "without"))
        assert a["loops"] == b["loops"], "progress counters are part of an exact resume"
        assert {k: v for k, v in a["callbacks"].items() if k[:4] in ("Entr", "Glob")} == {
            k: v for k, v in b["callbacks"].items() if k[:4] in ("Entr", "Glob")
        }


def test_its_figures_are_logged_first(runs, tmp_path):
    fit(runs, tmp_path, "run", [InitialValidation()])
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    assert "val/countdown/pass@1" in rows[0] and rows[0]["step"] == 0 and "rollout/index" not in rows[0]
    # The same prompts and seeds under the same weights give the same figures as an evaluation on its own.
    module, data = runs.module(), runs.data(evaluation=source())
    trainer = runs.trainer()
    (expected,) = trainer.validate(module, data, verbose=False)
    assert {k: v for k, v in rows[0].items() if k.startswith("val/")} == expected


def test_rows_of_training_are_the_same(runs, tmp_path):
    fit(runs, tmp_path, "with", [InitialValidation()])
    fit(runs, tmp_path, "without", [])
    a, b = (
        [{k: v for k, v in r.items() if "second" not in k} for r in read_rows(tmp_path / n / "metrics.csv")] for n in ("with", "without")
    )
    assert a[1:] == b


def test_a_resumed_run_has_no_second_before(runs, tmp_path):
    fit(runs, tmp_path, "first", [InitialValidation()], epochs=1)
    _, _, draws = fit(runs, tmp_path, "second", [InitialValidation()], ckpt=tmp_path / "first" / "step=2.ckpt")
    assert draws.validations == [4]


def test_off_and_without_sources(runs, tmp_path):
    assert fit(runs, tmp_path, "off", [InitialValidation(enabled=False)], epochs=1)[2].validations == [2]
    assert fit(runs, tmp_path, "limit", [InitialValidation()], epochs=1, limit_val_batches=0)[2].validations == []
    assert fit(runs, tmp_path, "none", [InitialValidation()], epochs=1, evaluation=False)[2].validations == []
