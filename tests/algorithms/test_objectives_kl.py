"""KL estimators and the importance weights, against loops and against exact sums over a small vocabulary."""

import math

import numpy as np
import pytest
import torch

from aer_lightning.algorithms.objectives import (
    ImportanceWeights,
    LossInputs,
    finish_metrics,
    kl_loss,
    kl_penalised_rewards,
    kl_penalty,
    merge_metrics,
    mismatch_metrics,
)
from aer_lightning.errors import ConfigError

RNG = np.random.default_rng(0)
B, T = 5, 6
MASK = np.arange(T)[None] < np.array([6, 1, 4, 3, 2])[:, None]
LOGPROB = RNG.normal(-1.5, 0.6, (B, T))
OTHER = LOGPROB + RNG.normal(0, 0.5, (B, T))
FORMULA = {"k1": lambda d: d, "k2": lambda d: d * d / 2, "k3": lambda d: math.exp(-d) - 1 + d}
SLOPE = {"k1": lambda d: 1.0, "k2": lambda d: d, "k3": lambda d: 1 - math.exp(-d)}
PLACES = [(i, t) for i in range(B) for t in range(T) if MASK[i, t]]


def make_inputs(**extra):
    return LossInputs(
        logprob=torch.tensor(LOGPROB, requires_grad=True),
        old_logprob=torch.tensor(LOGPROB),
        advantage=torch.zeros(B, dtype=torch.float64),
        mask=torch.tensor(MASK),
        num_tokens=50,
        num_sequences=20,
        max_tokens=T,
        **extra,
    )


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_loss_and_gradient(estimator):
    inputs = make_inputs(reference_logprob=torch.tensor(np.where(MASK, OTHER, np.nan)), token_weight=torch.full((B, T), 9.0))
    loss, metrics = kl_loss(inputs, estimator)
    loss.backward()
    differences = {place: LOGPROB[place] - OTHER[place] for place in PLACES}
    total = sum(FORMULA[estimator](d) for d in differences.values())
    assert loss.item() == pytest.approx(total / 50, abs=1e-14)
    assert finish_metrics(metrics)["reference_kl"] == pytest.approx(total / len(PLACES))
    for place in np.ndindex(B, T):
        expected = SLOPE[estimator](differences[place]) / 50 if place in differences else 0.0
        assert inputs.logprob.grad[place].item() == pytest.approx(expected, abs=1e-14)
    by_sequence = sum(sum(FORMULA[estimator](differences[i, t]) for t in range(T) if MASK[i, t]) / MASK[i].sum() for i in range(B)) / 20
    assert kl_loss(inputs, estimator, "sequence_mean_token_mean")[0].item() == pytest.approx(by_sequence)


def test_estimators_have_the_expectations_and_gradients_that_their_docstring_claims():
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([1.0, 0.2, -0.5, 0.0], dtype=torch.float64), -1)
    logprob = torch.log_softmax(logits, -1)
    weight = logprob.exp().detach()
    kl = (logprob.exp() * (logprob - reference)).sum()
    (kl_gradient,) = torch.autograd.grad(kl, logits, retain_graph=True)
    (other_gradient,) = torch.autograd.grad((reference.exp() * (reference - logprob)).sum(), logits, retain_graph=True)
    expected, gradient = {}, {}
    for name in ("k1", "k2", "k3"):
        expected[name] = (weight * kl_penalty(logprob, reference, name)).sum()
        (gradient[name],) = torch.autograd.grad(expected[name], logits, retain_graph=True)
    assert expected["k1"].item() == pytest.approx(kl.item())
    assert expected["k3"].item() == pytest.approx(kl.item())
    assert expected["k2"].item() != pytest.approx(kl.item(), rel=1e-3)
    torch.testing.assert_close(gradient["k1"], torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient["k2"], kl_gradient)
    torch.testing.assert_close(gradient["k3"], other_gradient)


def test_kl_in_the_reward_is_summed_over_the_response():
    rewards = torch.arange(B, dtype=torch.float64)
    for estimator in ("k1", "k2", "k3"):
        result = kl_penalised_rewards(rewards, torch.tensor(LOGPROB), torch.tensor(OTHER), torch.tensor(MASK), 0.3, estimator)
        for i in range(B):
            kl = sum(FORMULA[estimator](LOGPROB[i, t] - OTHER[i, t]) for t in range(T) if MASK[i, t])
            assert result[i].item() == pytest.approx(i - 0.3 * kl)


def test_kl_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="reference_logprob"):
        kl_loss(make_inputs())
    with pytest.raises(ConfigError, match=r"^kl_estimator: "):
        kl_penalty(torch.zeros(1), torch.zeros(1), "k4")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^kl_weight: "):
        kl_penalised_rewards(torch.zeros(B), torch.tensor(LOGPROB), torch.tensor(OTHER), torch.tensor(MASK), -1.0)


@pytest.mark.parametrize("far", [-60.0, -25.0, 25.0, 60.0])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_keeps_a_gradient_of_the_right_sign_at_large_differences(estimator, far):
    logprob = torch.full((1, 1), far, dtype=torch.float32, requires_grad=True)
    inputs = LossInputs(
        logprob=logprob,
        old_logprob=torch.zeros(1, 1),
        advantage=torch.zeros(1),
        mask=torch.ones(1, 1, dtype=torch.bool),
        num_tokens=1,
        num_sequences=1,
        max_tokens=1,
        reference_logprob=torch.zeros(1, 1),
    )
    loss, _ = kl_loss(inputs, estimator)
    loss.backward()
    slope = {"k1": 1.0, "k2": far, "k3": 1 - math.exp(min(-far, 20.0))}[estimator]
    assert logprob.grad.item() == pytest.approx(slope, rel=1e-6)
    value = {"k1": far, "k2": far * far / 2, "k3": math.exp(min(-far, 20)) * (1 + max(-far - 20, 0)) - 1 + far}[estimator]
    assert loss.item() == pytest.approx(value, rel=1e-6)
    mask = torch.ones(1, 2, dtype=torch.bool)
    reward = kl_penalised_rewards(torch.zeros(1), torch.full((1, 2), far), torch.zeros(1, 2), mask, 1.0, "k1")
    assert reward.item() == pytest.approx(-2 * far), "the reward pays for all of it"


def test_the_ratio_of_a_response_bounds_the_sum_and_not_each_token():
    difference = torch.tensor([[-30.0, 25.0]], dtype=torch.float64)
    mask = torch.ones(1, 2, dtype=torch.bool)
    weight, metrics = ImportanceWeights(level="sequence", cap=1e9)(difference, torch.zeros_like(difference), mask)
    torch.testing.assert_close(weight, torch.full((1, 2), math.exp(-5), dtype=torch.float64))
    assert finish_metrics(metrics)["importance_weight"] == pytest.approx(math.exp(-5))


def loop_weights(mode, level, cap, low):
    """(weight by place, share out of bounds) by the definition."""
    difference = {place: OTHER[place] - LOGPROB[place] for place in PLACES}
    raw = {place: math.exp(value) for place, value in difference.items()}
    if level == "sequence":
        product = {i: math.exp(sum(difference[i, t] for t in range(T) if MASK[i, t])) for i in range(B)}
        raw = {place: product[place[0]] for place in PLACES}
    units = list(product.values()) if level == "sequence" else list(raw.values())
    floor = 0.0 if low is None else low

    def bound(w):
        if mode == "truncate":
            return min(max(w, floor), cap)
        return w if floor <= w <= cap else 0.0

    return {place: bound(w) for place, w in raw.items()}, units, sum(w > cap or w < floor for w in units) / len(units)


@pytest.mark.parametrize("mode", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("cap", "low"), [(1.3, None), (1.5, 0.8), (1e3, None)])
def test_importance_weights(mode, level, cap, low):
    weights, metrics = ImportanceWeights(mode, level, cap, low)(torch.tensor(OTHER), torch.tensor(LOGPROB), torch.tensor(MASK))
    expected, units, share = loop_weights(mode, level, cap, low)
    for place, value in expected.items():
        assert weights[place].item() == pytest.approx(value)
    values = finish_metrics(metrics)
    assert values["importance_clipped"] == pytest.approx(share)
    assert values["importance_ess"] == pytest.approx(sum(units) ** 2 / sum(w * w for w in units) / len(units))
    assert 0 < values["importance_ess"] <= 1


def test_mismatch_metrics_and_their_merging():
    old, behaviour, mask = torch.tensor(OTHER), torch.tensor(LOGPROB), torch.tensor(MASK)
    differences = [OTHER[place] - LOGPROB[place] for place in PLACES]
    parts = [mismatch_metrics(old[rows], behaviour[rows], mask[rows]) for rows in (slice(0, 1), slice(1, 4), slice(4, None))]
    for metrics in (mismatch_metrics(old, behaviour, mask), merge_metrics(*parts)):
        values = finish_metrics(metrics)
        assert values["mismatch_abs"] == pytest.approx(np.mean(np.abs(differences)))
        assert values["mismatch_kl_k1"] == pytest.approx(-np.mean(differences))
        assert values["mismatch_kl_k3"] == pytest.approx(np.mean([math.exp(d) - 1 - d for d in differences]))
        assert values["mismatch_ratio_max"] == pytest.approx(math.exp(max(differences)))


def test_equal_policies_weigh_one_and_only_measuring_changes_nothing():
    logprob, mask = torch.tensor(LOGPROB), torch.tensor(MASK)
    weights, metrics = ImportanceWeights()(logprob, logprob, mask)
    torch.testing.assert_close(weights[mask], torch.ones(len(PLACES), dtype=torch.float64))
    assert finish_metrics(metrics)["importance_ess"] == pytest.approx(1)
    inputs = make_inputs(behaviour_logprob=torch.tensor(OTHER))
    measured, metrics = ImportanceWeights(mode=None).apply(inputs)
    assert measured.token_weight is None
    assert finish_metrics(metrics)["mismatch_abs"] > 0
    assert ImportanceWeights().apply(make_inputs())[1] == {}
    weighted, _ = ImportanceWeights(cap=1.2).apply(inputs)
    assert weighted.token_weight[torch.tensor(MASK)].max() == pytest.approx(1.2)
    assert not weighted.token_weight.requires_grad


@pytest.mark.parametrize(
    ("options", "name"),
    [({"mode": "clip"}, "mode"), ({"level": "batch"}, "level"), ({"cap": 0.5}, "cap"), ({"low": 1.5}, "low"), ({"low": -0.1}, "low")],
)
def test_impossible_importance_options_are_named(options, name):
    with pytest.raises(ConfigError, match=rf"^{name}: "):
        ImportanceWeights(**options)
