"""A resumed run is the uninterrupted run, bit for bit: weights, optimizer, alpha, H_0, prompts, samples, metrics."""

from __future__ import annotations

import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from aer_lightning.algorithms.objectives import REPORObjective
from aer_lightning.callbacks import (
    DifficultyCoefficient,
    EntropyAnchor,
    GlobalCoefficient,
    REPORScale,
    SIRENCoefficient,
    SkyworkCoefficient,
)
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.errors import ConfigError

TIMES = ("seconds", "per_second")


class Diary(pl.Callback):
    """Every rollout's samples and metrics, and draws from the global generators, which a resumed run has to repeat."""

    def __init__(self):
        self.samples, self.metrics, self.draws = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
        if batch.first:
            self.samples.append([(s.prompt_id, s.index, tuple(s.token_ids)) for s in trainer.datamodule.last_samples])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.last:
            self.metrics.append({k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith(TIMES) and k[:3] != "val"})


def stack():
    return [EntropyAnchor(tau=1.5), GlobalCoefficient(kp=0.3, ki=0.1, smoothing=0.5), DifficultyCoefficient(rho=0.7, normalize=True)]


def state(trainer, module):
    weights = {name: tensor.clone() for name, tensor in module.full_weights()}
    return weights, trainer.optimizers[0].state_dict()["state"]


def assert_same(a, b):
    assert a[0].keys() == b[0].keys() and all(torch.equal(a[0][n], b[0][n]) for n in a[0])
    for i, entry in a[1].items():
        assert all(torch.equal(entry[k], b[1][i][k]) for k in entry)


def sources():
    return [CountdownPrompts(split="validation", numbers=(2, 3), size=2)]


@pytest.mark.parametrize("every", [{"every_n_epochs": 1}, {"every_n_train_steps": 3}], ids=["epoch end", "inside a rollout"])
def test_resume_equals_no_interruption(runs, tmp_path, every):
    options = {"optimizer_steps_per_rollout": 2, "tokens_per_micro_batch": 96, "rollouts_per_epoch": 2}
    whole, whole_stack = Diary(), stack()
    trainer, module, _ = runs.fit([*whole_stack, whole], data=runs.data(**options, evaluation=sources()), max_epochs=4)
    expected = state(trainer, module)

    first = Diary()
    save = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_top_k=-1, filename="{step}", **every)
    runs.fit([*stack(), first, save], data=runs.data(**options, evaluation=sources()), max_epochs=2)
    step = 8 if "every_n_epochs" in every else 3
    path = tmp_path / "ckpt" / f"step={step}.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    in_flight = checkpoint["RolloutDataModule"]["in_flight"]
    assert (in_flight == [None]) == ("every_n_epochs" in every)

    second, second_stack = Diary(), stack()
    trainer, module, data = runs.fit([*second_stack, second], data=runs.data(**options, evaluation=sources()), max_epochs=4, ckpt_path=path)
    assert_same(expected, state(trainer, module))
    assert trainer.global_step == 16 and data.rollouts == 8 and module.weight_version == 16
    assert second_stack[1].alpha == whole_stack[1].alpha and second_stack[0].anchor == whole_stack[0].anchor
    assert second_stack[1].rollouts == whole_stack[1].rollouts == 8
    count = len(second.metrics)
    assert count == (4 if "every_n_epochs" in every else 7)
    assert second.metrics == whole.metrics[-count:]
    assert second.samples == whole.samples[-len(second.samples) :]
    assert second.draws == whole.draws[-len(second.draws) :]


def test_baseline_state_survives(runs, tmp_path):
    def fit(epochs, ckpt=None, save=True):
        callback = SkyworkCoefficient(target=5.0, delta=0.01)
        extra = [ModelCheckpoint(dirpath=tmp_path / "s", filename="last")] if save else []
        runs.fit([callback, *extra], max_epochs=epochs, ckpt_path=ckpt)
        return callback

    whole = fit(2, save=False)
    fit(1)
    resumed = fit(2, tmp_path / "s" / "last.ckpt", save=False)
    assert (resumed.alpha, resumed.previous, resumed.rollouts) == (whole.alpha, whole.previous, whole.rollouts)


@pytest.mark.parametrize(
    ("make", "objective"),
    [
        (lambda: [EntropyAnchor(tau=1.0), REPORScale()], REPORObjective()),
        (lambda: [EntropyAnchor(tau=1.0, measure="regularised"), SIRENCoefficient(coefficient=0.5)], None),
    ],
    ids=["repo_r", "siren"],
)
def test_a_rival_goes_on_inside_its_first_rollout(runs, tmp_path, make, objective):
    options = {"optimizer_steps_per_rollout": 2, "rollouts_per_epoch": 4}

    def fit(ckpt=None, extra=()):
        stack, diary = make(), Diary()
        trainer, module, _ = runs.fit(
            [*stack, diary, *extra], data=runs.data(**options), module=runs.module(objective=objective), ckpt_path=ckpt
        )
        return stack, diary, state(trainer, module)

    save = ModelCheckpoint(dirpath=tmp_path / "c", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    stack, whole, expected = fit(extra=[save])
    resumed_stack, resumed, found = fit(tmp_path / "c" / "step=1.ckpt")
    assert_same(expected, found)
    assert resumed.metrics == whole.metrics and len(whole.metrics) == 4
    for a, b in zip(stack, resumed_stack, strict=True):
        assert a.state_dict() == b.state_dict()


def test_another_seed_is_refused(runs, tmp_path):
    runs.fit([ModelCheckpoint(dirpath=tmp_path / "c", filename="last")])
    with pytest.raises(ConfigError, match=r"^seed_everything: "):
        runs.fit(data=runs.data(seed=4), max_epochs=2, ckpt_path=tmp_path / "c" / "last.ckpt")


def test_a_rollout_in_flight_on_two_ranks_goes_on_on_one(runs, tmp_path):
    """Its sequences are dealt anew, so that the rest of the rollout trains on what an uninterrupted run trains on."""
    options = {"optimizer_steps_per_rollout": 2, "rollouts_per_epoch": 2}
    keep = ModelCheckpoint(dirpath=tmp_path / "c", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    _, whole, _ = runs.fit([keep], data=runs.data(**options))
    path = tmp_path / "c" / "step=1.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    (share,) = checkpoint["RolloutDataModule"]["in_flight"]
    halves = []
    for half in (0, 1):
        steps = [step[half::2] for step in share["steps"]]
        halves.append({**share, "steps": steps, "packs": [[list(range(len(step)))] for step in steps]})
    checkpoint["RolloutDataModule"]["in_flight"] = halves
    torch.save(checkpoint, path)
    _, resumed, _ = runs.fit(data=runs.data(**options), ckpt_path=path)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
