"""From rewards to advantages over all ranks, and the statistics that selecting objectives get of a step."""

from types import SimpleNamespace

import pytest
import torch

from aer_lightning.algorithms import KLCovObjective, STAREObjective, compute_advantages
from aer_lightning.data.credit import assign_advantages, covariance_statistics
from aer_lightning.data.shaping import Shaping
from aer_lightning.rollout import Sample, Sizes

SIZES = Sizes(prompts=2, responses=3, steps=1, tokens=64)
POLICY = SimpleNamespace(kl_weight=0.0, kl_in="loss")
LENGTHS, REWARDS = [1, 4, 2, 3, 3, 5], [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]


def make_samples():
    torch.manual_seed(0)
    return [
        Sample("p", "", i % 3, i, [1], [1] * n, torch.zeros(n), "stop", reward=r, old_logprob=-torch.rand(n).round(decimals=1))
        for i, (n, r) in enumerate(zip(LENGTHS, REWARDS, strict=True))
    ]


@pytest.mark.parametrize("estimator", ["grpo", "reinforce_pp", "reinforce_pp_token"])
def test_advantages_are_the_estimators_of_the_whole_rollout_in_any_order(estimator):
    samples = make_samples()
    assign_advantages(samples[::-1], SIZES, 8, Shaping(advantage=estimator), POLICY)
    rewards, lengths = torch.tensor(REWARDS).view(2, 3), torch.tensor(LENGTHS).view(2, 3)
    expected = compute_advantages(rewards, estimator, 1e-6, lengths).flatten().tolist()
    assert [s.advantage for s in samples] == pytest.approx(expected)


def test_per_token_statistics_differ_from_those_per_response():
    per_token, per_response = make_samples(), make_samples()
    assign_advantages(per_token, SIZES, 8, Shaping(advantage="reinforce_pp_token"), POLICY)
    assign_advantages(per_response, SIZES, 8, Shaping(advantage="reinforce_pp"), POLICY)
    assert sum(s.advantage * len(s.token_ids) for s in per_token) == pytest.approx(0, abs=1e-5)
    assert abs(sum(s.advantage * len(s.token_ids) for s in per_response)) > 0.1


@pytest.mark.parametrize("objective", [KLCovObjective(kl_share=0.3), STAREObjective(share=0.3)])
def test_statistics_do_not_depend_on_the_order_of_a_step(objective):
    samples = make_samples()
    assign_advantages(samples, SIZES, 8, Shaping(), POLICY)
    forward, backward = (covariance_statistics([step], Shaping(), objective) for step in (samples, samples[::-1]))
    assert forward[0] == pytest.approx(backward[0]) and forward[0]["tie"] >= 0
    assert covariance_statistics([samples], Shaping(), object()) == []
