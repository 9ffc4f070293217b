"""The invariants of AER that need a training run; the arithmetic ones are in tests/callbacks."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch

from aer_lightning.algorithms.objectives import ClipObjective
from aer_lightning.callbacks import DifficultyCoefficient, EntropyAnchor, FixedCoefficient, GlobalCoefficient
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.data.shaping import DynamicSampling


def stack(**kwargs):
    return [EntropyAnchor(tau=1.5), GlobalCoefficient(**({"eta": 0.1} | kwargs)), DifficultyCoefficient()]


def weights(module):
    return {name: tensor.clone() for name, tensor in module.full_weights()}


@pytest.mark.parametrize(("steps", "tokens"), [(1, 512), (1, 128), (2, 256), (4, 64)])
def test_one_controller_update_per_rollout(runs, recorder, steps, tokens):
    callbacks = stack()
    runs.fit([*callbacks, recorder], data=runs.data(optimizer_steps_per_rollout=steps, tokens_per_micro_batch=tokens, rollouts_per_epoch=3))
    assert callbacks[1].rollouts == 3
    # Target 1.5 H_0 lies above the entropy, so each update adds about eta / 3, and alpha of rollout k is that of k updates.
    alphas = [r["aer/alpha"] for r in recorder.rollouts]
    assert alphas[0] == 0.0 and all(b - a == pytest.approx(0.1 / 3, abs=0.02) for a, b in pairwise(alphas))
    within = [
        {float(b.entropy_coefficient.max()) for b in recorder.batches if b.info.index == i and (b.group_accuracy < 0.5).any()}
        for i in range(3)
    ]
    assert all(len(values) == 1 for values in within), "alpha stays the same over all optimizer steps of a rollout"


def test_validation_moves_nothing(runs):
    data = runs.data(evaluation=[CountdownPrompts(split="validation", numbers=(2, 3), size=4)])
    callbacks = stack()
    trainer, module, _ = runs.fit(callbacks, data=data)
    before = (callbacks[0].anchor, callbacks[1].alpha, callbacks[1].rollouts, weights(module))
    trainer.validate(module, data, verbose=False)
    assert before[:3] == (callbacks[0].anchor, callbacks[1].alpha, callbacks[1].rollouts)
    assert all(torch.equal(a, b) for a, b in zip(before[3].values(), weights(module).values(), strict=True))


def test_training_is_the_same_with_and_without_validation(runs):
    evaluation = [CountdownPrompts(split="validation", numbers=(2, 3), size=4)]
    results = []
    for sources in ([], evaluation):
        _, module, _ = runs.fit(stack(), data=runs.data(evaluation=sources), max_epochs=2)
        results.append((weights(module), torch.get_rng_state()))
    assert all(torch.equal(a, b) for a, b in zip(results[0][0].values(), results[1][0].values(), strict=True))
    assert torch.equal(results[0][1], results[1][1])


def test_step_entropy_does_not_depend_on_packs(runs, recorder):
    seen = []
    for tokens in (512, 128, 32):
        record = copy.deepcopy(recorder)
        runs.fit([record], data=runs.data(tokens_per_micro_batch=tokens))
        seen.append([record.batches[0].info.entropy, record.batches[-1].info.entropy])
    assert seen[0] == pytest.approx(seen[1], abs=1e-6) and seen[0] == pytest.approx(seen[2], abs=1e-6)


def test_step_entropy_is_that_of_the_whole_softmax_at_the_sampling_temperature(runs, recorder):
    from transformers import AutoModelForCausalLM

    _, _, data = runs.fit([recorder], data=runs.data(temperature=0.7, rollouts_per_epoch=1, max_new_tokens=6))
    model = AutoModelForCausalLM.from_pretrained(runs.model).double()
    total, count = 0.0, 0
    for s in data.last_samples:
        ids = torch.tensor([s.prompt_ids + s.token_ids])
        logp = torch.log_softmax(model(ids).logits[0, len(s.prompt_ids) - 1 : -1] / 0.7, -1)
        total += float(-(logp.exp() * logp).sum())
        count += len(s.token_ids)
        # Entropy, log-probability and the sampler share the temperature.
        chosen = logp[torch.arange(len(s.token_ids)), torch.tensor(s.token_ids)].float()
        assert torch.allclose(chosen, s.old_logprob, atol=1e-4) and torch.allclose(chosen, s.behaviour_logprob, atol=1e-4)
    assert recorder.batches[0].info.entropy == pytest.approx(total / count, abs=1e-5)
    assert recorder.batches[0].info.num_tokens == count


def gradients(runs, tokens, coefficient, objective=None, advantage_scale=1.0):
    """Gradient of the first optimizer step, as one vector."""
    import lightning.pytorch as pl

    class Keep(pl.Callback):
        grad = None

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batch.advantage = batch.advantage * advantage_scale

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if self.grad is None:
                self.grad = torch.cat([p.grad.flatten() for p in pl_module.parameters()]).clone()

    keep = Keep()
    runs.fit(
        [FixedCoefficient(coefficient), keep],
        data=runs.data(tokens_per_micro_batch=tokens, rollouts_per_epoch=1),
        module=runs.module(objective=objective),
    )
    return keep.grad


def test_entropy_bonus_has_a_gradient_that_nothing_rescales(runs):
    reference = gradients(runs, 512, 0.1, advantage_scale=0.0)
    assert reference.norm() > 1e-3
    for tokens in (256, 64):
        assert torch.allclose(gradients(runs, tokens, 0.1, advantage_scale=0.0), reference, atol=1e-6)
    for aggregation in ("sequence_mean_token_sum", "sequence_mean_token_mean", "constant_length"):
        other = gradients(runs, 512, 0.1, ClipObjective(aggregation=aggregation), advantage_scale=0.0)
        assert torch.allclose(other, reference, atol=1e-6)
    assert torch.allclose(gradients(runs, 512, 0.2, advantage_scale=0.0), 2 * reference, atol=1e-6)


def test_policy_gradient_does_not_depend_on_accumulation(runs):
    from aer_lightning.data.engines import TransformersEngine

    def gradient(tokens):
        import lightning.pytorch as pl

        class Keep(pl.Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                batch.advantage = torch.sin(batch.sequence_index.float())

            def on_before_optimizer_step(self, trainer, pl_module, optimizer):
                self.grad = torch.cat([p.grad.flatten() for p in pl_module.parameters()]).clone()

        keep = Keep()
        runs.fit([keep], data=runs.data(tokens_per_micro_batch=tokens, rollouts_per_epoch=1, engine=TransformersEngine()))
        return keep.grad

    assert gradient(512).norm() > 1e-3
    assert torch.allclose(gradient(512), gradient(64), atol=1e-6)


def test_all_wrong_group_is_moved_by_entropy_alone(runs, recorder):
    """A random model solves nothing: every advantage is 0 and every weight 1, and yet the weights move."""
    _, module, _ = runs.fit([FixedCoefficient(0.1), DifficultyCoefficient(), recorder], data=runs.data(rollouts_per_epoch=1))
    batch = recorder.batches[0]
    wrong = batch.group_accuracy == 0
    assert wrong.any() and (batch.advantage[wrong] == 0).all()
    assert torch.allclose(batch.entropy_coefficient[wrong], torch.tensor(0.1))
    from transformers import AutoModelForCausalLM

    before = AutoModelForCausalLM.from_pretrained(runs.model).state_dict()
    moved = {name: (tensor - before[name]).abs().max().item() for name, tensor in module.full_weights()}
    assert max(moved.values()) > 1e-4


@pytest.mark.parametrize("keep", [True, False])
def test_whether_dynamic_sampling_drops_all_wrong_groups_is_explicit(runs, recorder, keep):
    dynamic = DynamicSampling(max_tries=2, keep_all_wrong=keep)
    runs.fit([recorder], data=runs.data(rollouts_per_epoch=1, dynamic_sampling=dynamic))
    metrics = recorder.rollouts[0]
    assert metrics["rollout/all_wrong_groups"] > 0.5
    if keep:
        assert metrics["rollout/sampling_tries"] == 1 and metrics["rollout/filled_groups"] == 0
    else:
        assert metrics["rollout/sampling_tries"] == 2 and metrics["rollout/filled_groups"] > 0


def test_state_of_the_controller_is_visible_at_every_rollout(runs, recorder):
    runs.fit([*stack(alpha_max=0.02), recorder], data=runs.data(rollouts_per_epoch=3))
    assert len(recorder.rollouts) == 3
    for metrics in recorder.rollouts:
        assert {"rollout/entropy", "aer/target_entropy", "aer/alpha", "aer/active_tokens", "aer/at_limit"} <= metrics.keys()
    assert recorder.rollouts[0]["aer/at_limit"] == -1 and recorder.rollouts[-1]["aer/at_limit"] == 1
    assert recorder.rollouts[0]["aer/active_tokens"] == 0 and recorder.rollouts[1]["aer/active_tokens"] > 0.5


def test_every_rollout_is_generated_by_the_current_weights(runs, recorder):
    runs.fit([recorder], data=runs.data(optimizer_steps_per_rollout=2, rollouts_per_epoch=3), max_epochs=2)
    assert recorder.versions == [(2 * i, 2 * i) for i in range(6)]
    assert all(r["rollout/mismatch_logprob"] < 1e-5 for r in recorder.rollouts)
