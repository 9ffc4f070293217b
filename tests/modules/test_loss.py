"""A pack's loss against its formula, term by term; the step itself is tested in test_step.py and test_policy.py."""

import pytest
import torch

from aer_lightning.algorithms.objectives import ClipObjective, ImportanceWeights
from aer_lightning.modules.loss import StepLoss
from aer_lightning.modules.network import PolicyNetwork
from aer_lightning.rollout import Rollout, RolloutInfo
from tests.modules.test_network import load, reference, samples


def batch(rows, coefficient):
    tokens = float(sum(len(s.token_ids) for s in rows))
    rollout = Rollout(
        RolloutInfo(0, 0, 1.0, float("nan"), int(tokens), len(rows)), [rows], [[list(range(len(rows)))]], [tokens], [tokens], [3.0], 9
    )
    out = rollout.next_batch()
    out.advantage, out.entropy_coefficient = torch.tensor([1.0, -0.5, 0.25]), torch.tensor(coefficient)
    return out


def test_policy_loss_minus_entropy_plus_kl(random_model):
    network, rows = PolicyNetwork(load(random_model)), samples()
    logprob, entropy = (t.split([len(s.token_ids) for s in rows]) for t in reference(load(random_model), rows))
    for s, lp in zip(rows, logprob, strict=True):
        s.reference_logprob = lp.detach() - 0.1
    step = batch(rows, [0.1, 0.0, 0.3])
    (pack,) = step.tensors()
    total, metrics, (measured, _) = StepLoss(ClipObjective(), None, kl_weight=0.5, kl_estimator="k2")(network, step, pack, 1)
    n = step.num_tokens
    policy = -sum(float(a) * len(lp) for a, lp in zip(step.advantage, logprob, strict=True)) / n  # every ratio is 1
    bonus = sum(float(c) * float(h.sum()) for c, h in zip(step.entropy_coefficient, entropy, strict=True)) / n
    kl = 0.5 * 0.1**2
    assert float(total) == pytest.approx(policy - bonus + 0.5 * kl, abs=1e-5)
    assert float(metrics["policy_loss"][0]) == pytest.approx(policy, abs=1e-6)
    assert float(metrics["entropy_bonus"][0]) == pytest.approx(bonus, abs=1e-5)
    assert torch.allclose(measured, torch.cat(logprob), atol=1e-5) and not measured.requires_grad


def test_an_empty_pack_takes_part_and_counts_nothing(random_model):
    network, step = PolicyNetwork(load(random_model)), batch(samples(), [0.1, 0.1, 0.1])
    step.packs = [[]]
    (pack,) = step.tensors()
    total, metrics, _ = StepLoss(ClipObjective(), ImportanceWeights())(network, step, pack, 2)
    total.backward()
    assert float(total.detach()) == 0 and metrics == {}
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())
    assert any(p.grad is not None for p in network.parameters()), "sharded ranks wait for its backward pass"
