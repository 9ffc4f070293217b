"""The optimizer step and what Lightning does with it: clipping, scaling, fused optimizers, averaging, checkpointing, compilation."""

import math
from typing import ClassVar

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision

from aer_lightning.algorithms.objectives import GSPOObjective
from aer_lightning.callbacks import DifficultyCoefficient, EntropyAnchor, FixedCoefficient, GlobalCoefficient
from aer_lightning.data.engines import TransformersEngine


class Advantages(pl.Callback):
    """Advantages that do not depend on what a random model gets right, and the gradient and norm just before the step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        batch.advantage = torch.sin(batch.sequence_index.float())

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.grad = torch.cat([p.grad.flatten() for p in pl_module.parameters()]).clone()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.clipped = torch.cat([p.grad.flatten() for p in pl_module.parameters()]).clone()
        self.norm = float(trainer.callback_metrics["train/grad_norm"])


def optimizer(**options):
    return lambda params: torch.optim.AdamW(params, **({"lr": 1e-3, "weight_decay": 0.0} | options))


def step(runs, *, data=None, module=None, **trainer):
    """One rollout of several packs; returns the callback and the module."""
    keep = Advantages()
    data = runs.data(**({"rollouts_per_epoch": 1, "tokens_per_micro_batch": 96, "engine": TransformersEngine()} | (data or {})))
    _, module, _ = runs.fit([FixedCoefficient(0.1), keep], data=data, module=runs.module(**(module or {})), **trainer)
    return keep, module


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_clipping_by_norm_and_by_value(runs):
    free, _ = step(runs)
    assert free.norm == pytest.approx(float(free.grad.norm()), rel=1e-5) and torch.equal(free.grad, free.clipped)
    half, _ = step(runs, gradient_clip_val=free.norm / 2)
    assert torch.allclose(half.clipped, free.grad / 2, atol=1e-7) and half.norm == pytest.approx(free.norm, rel=1e-5)
    limit = float(free.grad.abs().max()) / 3
    value, _ = step(runs, gradient_clip_val=limit, gradient_clip_algorithm="value")
    assert torch.allclose(value.clipped, free.grad.clamp(-limit, limit), atol=1e-7)


def test_the_norm_is_computed_once(runs, monkeypatch):
    calls = []
    for name in ("get_total_norm", "clip_grad_norm_"):
        real = getattr(torch.nn.utils, name)
        monkeypatch.setattr(torch.nn.utils, name, lambda *a, real=real, name=name, **k: (calls.append(name), real(*a, **k))[1])
    step(runs, gradient_clip_val=0.1)
    assert calls == ["get_total_norm"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_optimizer_is_clipped(runs, precision):
    data = {"max_mismatch": 1.0}
    _, plain = step(runs, data=data, gradient_clip_val=0.05, precision=precision)
    _, fused = step(runs, data=data, module={"optimizer": optimizer(fused=True)}, gradient_clip_val=0.05, precision=precision)
    assert torch.allclose(weights(plain), weights(fused), atol=2e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_losses_are_clipped_and_logged_unscaled(runs, fused):
    """fp16's scaling on a CPU: the scale is a power of two, so nothing else changes."""
    data = {"max_mismatch": 1.0}
    reference, expected = step(runs, data=data, gradient_clip_val=0.05, precision="bf16-mixed")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    plugin.autocast_context_manager = lambda: torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False)
    keep, module = step(runs, data=data, module={"optimizer": optimizer(fused=fused)}, gradient_clip_val=0.05, plugins=[plugin])
    assert keep.norm == pytest.approx(reference.norm, rel=1e-2)
    assert keep.clipped.norm() == pytest.approx(0.05, rel=1e-3)
    assert torch.allclose(weights(module), weights(expected), atol=1e-4)


def test_weight_averaging_sees_optimizer_steps(runs):
    average = WeightAveraging(avg_fn=torch.optim.swa_utils.get_ema_avg_fn(0.5))
    _, module, _ = runs.fit([average], data=runs.data(rollouts_per_epoch=3, tokens_per_micro_batch=64))
    assert int(average._average_model.n_averaged) == 3 == module.weight_version


def test_gradient_checkpointing_changes_no_gradient(runs):
    plain, _ = step(runs)
    again, _ = step(runs, module={"gradient_checkpointing": True})
    assert torch.allclose(plain.grad, again.grad, atol=1e-6)


@pytest.mark.slow
def test_compiled_layers_change_no_gradient(runs, monkeypatch):
    import aer_lightning.modules.policy as policy_module

    compiled = []

    real = policy_module.decoder_layers

    def layers(model):
        found = real(model)
        for layer in found:
            monkeypatch.setattr(layer, "compile", lambda layer=layer: compiled.append(torch.nn.Module.compile(layer, backend="aot_eager")))
        return found

    plain, _ = step(runs)
    monkeypatch.setattr(policy_module, "decoder_layers", layers)
    fast, _ = step(runs, module={"compile_layers": True})
    assert len(compiled) == 2 and torch.allclose(plain.grad, fast.grad, atol=1e-6)


def test_max_steps_and_anomaly_detection_keep_their_meaning(runs):
    trainer, module, _ = runs.fit(data=runs.data(rollouts_per_epoch=3, optimizer_steps_per_rollout=2), max_steps=4, max_epochs=9)
    assert trainer.global_step == module.weight_version == 4
    step(runs, detect_anomaly=True)


def test_checkpoints_by_time_fall_between_steps(runs, tmp_path):
    from datetime import timedelta

    class Watch(ModelCheckpoint):
        seen: ClassVar[list] = []

        def _save_checkpoint(self, trainer, filepath):
            self.seen.append((trainer.global_step, trainer.lightning_module.weight_version))
            super()._save_checkpoint(trainer, filepath)

    keep = Watch(dirpath=tmp_path / "c", train_time_interval=timedelta(seconds=0), save_top_k=-1, filename="{step}")
    runs.fit([keep], data=runs.data(rollouts_per_epoch=3, tokens_per_micro_batch=64))
    assert keep.seen and all(step == version for step, version in keep.seen)


@pytest.mark.parametrize("objective", [None, GSPOObjective()])
def test_the_training_forward_as_scoring_pass_changes_nothing(runs, recorder, objective):
    """H_k, the anchor, alpha, the mismatch, every metric and the weights: with and without the pass before."""
    results = {}
    for way in ("auto", "always"):
        recorder.rollouts.clear(), recorder.batches.clear()
        stack = [EntropyAnchor(tau=2.0), GlobalCoefficient(alpha_init=0.05), DifficultyCoefficient()]
        data = runs.data(rollouts_per_epoch=3, scoring_pass=way, tokens_per_micro_batch=96, engine=TransformersEngine())
        _, module, _ = runs.fit([*stack, recorder], data=data, module=runs.module(objective=objective))
        assert all(s.entropy is not None and s.old_logprob is not None for b in recorder.batches for s in b.samples)
        results[way] = ([dict(r) for r in recorder.rollouts], weights(module), stack[0].anchor)
    (rows, w, anchor), (other, v, same) = results["auto"], results["always"]
    assert anchor == pytest.approx(same, abs=1e-6) and torch.allclose(w, v, atol=2e-6)
    for a, b in zip(rows, other, strict=True):
        keys = {k for k in a if "seconds" not in k and "per_second" not in k}
        assert keys == {k for k in b if "seconds" not in k and "per_second" not in k}
        assert {k: a[k] for k in keys} == pytest.approx({k: b[k] for k in keys}, abs=2e-5)
        assert math.isfinite(a["rollout/entropy"]) and a["rollout/mismatch_logprob"] < 1e-5


def test_nothing_is_scored_twice(runs, monkeypatch):
    """Tokens that went through the network: once on-policy, twice with two optimizer steps."""
    from aer_lightning.modules.network import PolicyNetwork

    seen = []
    real = PolicyNetwork.score
    count = lambda pack: sum(pack.lengths) + len(pack)  # noqa: E731 (with the last token of each, which predicts nothing)
    monkeypatch.setattr(PolicyNetwork, "score", lambda self, pack, *a: (seen.append(count(pack)), real(self, pack, *a))[1])
    _, _, data = runs.fit(data=runs.data(rollouts_per_epoch=1))
    assert sum(seen) == sum(len(s) for s in data.last_samples)
    seen.clear()
    _, _, data = runs.fit(data=runs.data(rollouts_per_epoch=1, optimizer_steps_per_rollout=2))
    assert sum(seen) == 2 * sum(len(s) for s in data.last_samples)


def test_truncated_completions_can_leave_h_and_the_bonus(runs, recorder):
    for leave in (False, True):
        runs.fit([FixedCoefficient(0.1), recorder], data=runs.data(rollouts_per_epoch=1, mask_truncated_entropy=leave))
    for batch, row, leave in zip(recorder.batches, recorder.rollouts, (False, True), strict=True):
        counted = [s.entropy.double() for s in batch.samples if not (leave and s.truncated)]
        assert any(s.truncated for s in batch.samples) and any(not s.truncated for s in batch.samples)
        assert row["rollout/entropy"] == pytest.approx(float(torch.cat(counted).mean()), abs=1e-6)
        assert row["train/entropy_bonus"] == pytest.approx(0.1 * row["rollout/entropy"], abs=1e-6)
