"""REPO-R, ADAPO, STARE, EntroPIC, Positive-Advantage Reweighting, SAPO and GMPO against loops in fp64, gradients by differences.

What the methods take as constants (a weight, a selection, a rescaled advantage) is made from the case's own log-probabilities, not from
the ones that are varied.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from aer_lightning.algorithms.objectives import (
    ClipObjective,
    CovarianceStatistics,
    EntroPICObjective,
    GMPOObjective,
    GSPOObjective,
    LossInputs,
    Objective,
    PositiveAdvantageObjective,
    REPORObjective,
    SAPOObjective,
    STAREObjective,
    finish_metrics,
    merge_metrics,
)
from aer_lightning.errors import ConfigError

B, T = 7, 6


def make_case(seed=0, scale=0.4):
    rng = np.random.default_rng(seed)
    logprob = -rng.exponential(0.8, (B, T))  # a third above log .95 .. far below
    logprob[rng.random((B, T)) < 0.3] = -0.01
    return {
        "logprob": logprob,
        "old": logprob + rng.normal(0, scale, (B, T)),
        "advantage": np.array([1.2, -0.7, 0.0, 0.4, -1.5, 0.9, -0.2]),
        "mask": np.arange(T)[None] < rng.integers(1, T + 1, B)[:, None],
    }


def make_inputs(case, rows=slice(None), **extra):
    return LossInputs(
        logprob=torch.tensor(case["logprob"][rows], requires_grad=True),
        old_logprob=torch.tensor(case["old"][rows]),
        advantage=torch.tensor(case["advantage"][rows]),
        mask=torch.tensor(case["mask"][rows]),
        num_tokens=float(case["mask"].sum()),
        num_sequences=float(B),
        max_tokens=T,
        sequence_index=torch.arange(B)[rows],
        **extra,
    )


def places(case):
    return [(i, t) for i in range(B) for t in range(T) if case["mask"][i, t]]


def clip(a, r, low=0.2, high=0.2):
    return -min(r * a, min(max(r, 1 - low), 1 + high) * a)


def token_mean(token):
    """A loop over tokens: ``token(case, i, t, A, r, chosen)`` is one token's loss."""

    def loop(case, x):
        inside = places(case)
        total = sum(token(case, (i, t), case["advantage"][i], math.exp(x[i, t] - case["old"][i, t])) for i, t in inside)
        return total / len(inside)

    return loop


def loop_repo(zeta):
    def token(case, p, a, r):
        step = zeta * case["logprob"][p]
        rescaled = max(a * (1 - step), 0.0) if a > 0 else min(a * (1 + step), 0.0)
        return clip(rescaled, r)

    return token_mean(token)


def loop_stare(weight, share):
    def chosen(case):
        positive = [p for p in places(case) if case["advantage"][p[0]] > 0]
        return sorted(positive, key=lambda p: case["logprob"][p])[: max(1, math.ceil(share * len(positive)))]

    return token_mean(lambda case, p, a, r: clip(a, r) * (weight if p in chosen(case) else 1))


def loop_entropic(alpha):
    def token(case, p, a, r):
        loss = clip(a, r)
        if a < 0:
            loss = min(loss, -3 * a)
        return loss - (alpha * r * abs(a) if case["logprob"][p] > math.log(0.95) else 0.0)

    return token_mean(token)


def loop_sapo(case, p, a, r):
    tau = 1.0 if a > 0 else 1.05
    return -a * 4 / tau / (1 + math.exp(-tau * (r - 1)))


def loop_gmpo(low, high):
    def loop(case, x):
        total = 0.0
        for i in range(B):
            d = [x[i, t] - case["old"][i, t] for t in range(T) if case["mask"][i, t]]
            a = case["advantage"][i]
            total -= a * math.exp(sum(min(v, high) if a > 0 else max(v, -low) for v in d) / len(d))
        return total / B

    return loop


CASES = {
    "repo_r": (REPORObjective(zeta=0.3), {}, loop_repo(0.3)),
    "repo_r moved": (REPORObjective(), {"zeta": -0.5}, loop_repo(-0.5)),
    "repo_r beyond 0": (REPORObjective(), {"zeta": 2.0}, loop_repo(2.0)),
    "adapo": (ClipObjective(), {"clip_high": 0.6}, token_mean(lambda c, p, a, r: clip(a, r, 0.2, 0.6))),
    "stare": (STAREObjective(weight=1.4, share=0.25), {}, loop_stare(1.4, 0.25)),
    "stare closed": (STAREObjective(share=0.25), {"surprisal_weight": 1.0}, loop_stare(1.0, 0.25)),
    "entropic": (EntroPICObjective(alpha=0.5), {}, loop_entropic(0.5)),
    "entropic moved": (EntroPICObjective(), {"sure_weight": -0.8}, loop_entropic(-0.8)),
    "positive": (PositiveAdvantageObjective(0.3), {}, token_mean(lambda c, p, a, r: clip(a, r) * (0.3 if a > 0 else 1))),
    "positive moved": (
        PositiveAdvantageObjective(),
        {"positive_weight": 0.0},
        token_mean(lambda c, p, a, r: 0.0 if a > 0 else clip(a, r)),
    ),
    "sapo": (SAPOObjective(), {}, token_mean(loop_sapo)),
    "gmpo": (GMPOObjective(), {}, loop_gmpo(0.4, 0.4)),
    "gmpo narrow": (GMPOObjective(0.1, 0.2), {}, loop_gmpo(0.1, 0.2)),
}


def finite_differences(function, logprob, step=1e-6):
    gradient = np.zeros_like(logprob)
    for place in np.ndindex(*logprob.shape):
        up, down = logprob.copy(), logprob.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (function(up) - function(down)) / (2 * step)
    return gradient


@pytest.mark.parametrize("scale", [0.1, 0.5])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_the_loop(name, scale):
    objective, scalars, loop = CASES[name]
    case = make_case(seed=3, scale=scale)
    inputs = make_inputs(case, scalars=scalars)
    loss, _ = objective(inputs)
    loss.backward()
    assert loss.item() == pytest.approx(loop(case, case["logprob"]), abs=1e-12)
    expected = finite_differences(lambda x: loop(case, x), case["logprob"])
    np.testing.assert_allclose(inputs.logprob.grad.numpy(), expected, atol=2e-9)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_micro_batches_and_padding_change_nothing(name):
    objective, scalars, _ = CASES[name]
    case = make_case(seed=5)
    extra = {"scalars": scalars}
    if hasattr(objective, "statistics"):
        given = objective.statistics(*(torch.tensor(case[n]) for n in ("old", "advantage", "mask")))
        extra["covariance"] = CovarianceStatistics(**{n: float(v) for n, v in vars(given).items()})
    whole = make_inputs(case, **extra)
    loss, metrics = objective(whole)
    loss.backward()
    for key in ("logprob", "old"):
        case[key] = np.where(case["mask"], case[key], np.nan)
    total, parts, gradients = 0.0, [], []
    for rows in (slice(0, 1), slice(1, 4), slice(4, B)):
        part = make_inputs(case, rows, **extra)
        share, part_metrics = objective(part)
        share.backward()
        total += share.item()
        parts.append(part_metrics)
        gradients.append(part.logprob.grad)
    assert total == pytest.approx(loss.item(), abs=1e-12)
    inside = torch.tensor(case["mask"])
    torch.testing.assert_close(torch.cat(gradients)[inside], whole.logprob.grad[inside], atol=1e-12, rtol=0)
    assert finish_metrics(merge_metrics(*parts)) == pytest.approx(finish_metrics(metrics), abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_importance_weights_multiply_the_loss_of_each_token(name):
    objective, scalars, _ = CASES[name]
    inputs = make_inputs(make_case(seed=6), scalars=scalars)
    doubled = replace(inputs, token_weight=torch.full((B, T), 2.0, dtype=torch.float64))
    assert objective(doubled)[0].item() == pytest.approx(2 * objective(inputs)[0].item())


@pytest.mark.parametrize(
    "objective",
    [REPORObjective(zeta=0.0), PositiveAdvantageObjective(), STAREObjective(weight=1.0), EntroPICObjective(dual_clip=None)],
)
def test_at_rest_each_is_the_plain_objective(objective):
    inputs = make_inputs(make_case(seed=7))
    assert objective(inputs)[0].item() == pytest.approx(ClipObjective()(inputs)[0].item(), abs=1e-14)


def test_repo_boosts_rare_right_tokens_and_spares_rare_wrong_ones():
    logprob = np.log([[0.9, 0.01]])
    for advantage, rare_more in ((1.0, True), (-1.0, False)):
        inputs = LossInputs(
            logprob=torch.tensor(logprob, requires_grad=True),
            old_logprob=torch.tensor(logprob),
            advantage=torch.tensor([advantage], dtype=torch.float64),
            mask=torch.ones(1, 2, dtype=torch.bool),
            num_tokens=2,
            num_sequences=1,
            max_tokens=2,
        )
        REPORObjective(zeta=0.05)(inputs)[0].backward()
        common, rare = inputs.logprob.grad.abs()[0].tolist()
        assert (rare > common) == rare_more


@pytest.mark.parametrize("share", [0.1, 0.33, 1.0])
def test_stare_selects_exactly_its_share_of_the_positive_tokens_on_ties(share):
    case = make_case(seed=8)
    case["old"] = case["logprob"] = np.round(case["logprob"])
    positive = sum(case["advantage"][i] > 0 for i, _ in places(case))
    selected = finish_metrics(STAREObjective(share=share)(make_inputs(case))[1])["surprisal_selected"]
    assert selected * len(places(case)) == pytest.approx(max(1, math.ceil(share * positive)))


def test_stare_with_no_positive_advantage_selects_nothing():
    case = make_case() | {"advantage": -np.ones(B)}
    for extra in ({}, {"covariance": CovarianceStatistics(0.0, 0.0)}):
        assert finish_metrics(STAREObjective()(make_inputs(case, **extra))[1])["surprisal_selected"] == 0


def test_entropic_weights_sure_tokens_by_the_sign_of_their_advantage():
    """Weight 1 + alpha where A > 0 and 1 - alpha where A < 0, on tokens above the probability alone."""
    case = make_case(seed=9)
    case["old"] = case["logprob"]
    inputs = make_inputs(case)
    EntroPICObjective(alpha=0.25)(inputs)[0].backward()
    n = len(places(case))
    for i, t in places(case):
        a, sure = case["advantage"][i], case["logprob"][i, t] > math.log(0.95)
        weight = 1 + 0.25 * np.sign(a) if sure else 1.0
        assert inputs.logprob.grad[i, t].item() == pytest.approx(-weight * a / n, abs=1e-12)


def test_the_ratio_of_a_response_is_bounded_as_a_whole():
    logprob = torch.tensor([[-30.0, 25.0]], dtype=torch.float64, requires_grad=True)
    inputs = LossInputs(
        logprob=logprob,
        old_logprob=torch.zeros(1, 2, dtype=torch.float64),
        advantage=torch.tensor([-1.0], dtype=torch.float64),
        mask=torch.ones(1, 2, dtype=torch.bool),
        num_tokens=2,
        num_sequences=1,
        max_tokens=2,
    )
    assert finish_metrics(GSPOObjective(1.0, 1.0)(inputs)[1])["sequence_ratio"] == pytest.approx(math.exp(-2.5))
    assert finish_metrics(GMPOObjective(40.0, 40.0)(inputs)[1])["sequence_ratio"] == pytest.approx(math.exp(-2.5))


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: REPORObjective(zeta=float("inf")), "zeta"),
        (lambda: REPORObjective(clip_low=0), "clip_low"),
        (lambda: PositiveAdvantageObjective(-0.1), "positive_weight"),
        (lambda: STAREObjective(weight=-1), "weight"),
        (lambda: STAREObjective(share=0), "share"),
        (lambda: EntroPICObjective(alpha=1.5), "alpha"),
        (lambda: EntroPICObjective(probability=1.0), "probability"),
        (lambda: EntroPICObjective(dual_clip=1.1), "dual_clip"),
        (lambda: SAPOObjective(tau_negative=0), "tau_negative"),
        (lambda: GMPOObjective(clip_high=0), "clip_high"),
        (lambda: GMPOObjective(aggregation="sum"), "aggregation"),
    ],
)
def test_impossible_options_are_named(make, option):
    with pytest.raises(ConfigError, match=rf"^{option}: "):
        make()


def test_each_keeps_the_protocol():
    assert all(isinstance(objective, Objective) for objective, _, _ in CASES.values())
