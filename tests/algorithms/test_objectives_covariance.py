"""Clip-Cov, KL-Cov and the counter-based randomness, against loops over Python numbers."""

import math

import numpy as np
import pytest
import torch

from aer_lightning.algorithms.objectives import (
    ClipCovObjective,
    ClipObjective,
    CovarianceStatistics,
    KLCovObjective,
    LossInputs,
    counter_uniform,
    finish_metrics,
)

B, T = 9, 12


def make_case(seed=0):
    rng = np.random.default_rng(seed)
    logprob = rng.normal(-1.5, 0.8, (B, T))
    return {
        "logprob": logprob,
        "old": logprob + rng.normal(0, 0.3, (B, T)),
        "advantage": rng.normal(0, 1.5, B),
        "mask": np.arange(T)[None] < rng.integers(2, T + 1, B)[:, None],
    }


def make_inputs(case, **extra):
    return LossInputs(
        logprob=torch.tensor(case["logprob"], requires_grad=True),
        old_logprob=torch.tensor(case["old"]),
        advantage=torch.tensor(case["advantage"]),
        mask=torch.tensor(case["mask"]),
        num_tokens=float(case["mask"].sum()),
        num_sequences=B,
        max_tokens=T,
        **extra,
    )


def loop_covariance(case):
    places = [(i, t) for i in range(B) for t in range(T) if case["mask"][i, t]]
    mean_a = sum(case["advantage"][i] for i, _ in places) / len(places)
    mean_logprob = sum(case["logprob"][p] for p in places) / len(places)
    return {(i, t): (case["advantage"][i] - mean_a) * (case["logprob"][i, t] - mean_logprob) for i, t in places}


def python_uniform(seed, sequence, position):
    """The same numbers with Python's integers, which do not overflow."""

    def mix(x):
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    state = seed % 2**32
    for word in ((seed >> 32) % 2**32, sequence % 2**32, (sequence >> 32) % 2**32):
        state = mix((mix(state) + word) % 2**32)
    return (mix((state + mix(position)) % 2**32) >> 8) / 2**24


def test_covariance_of_a_token_averages_to_the_covariance_of_the_batch():
    case = make_case(1)
    metrics = finish_metrics(KLCovObjective()(make_inputs(case))[1])
    rows, columns = np.nonzero(case["mask"])
    expected = np.cov(case["advantage"][rows], case["logprob"][rows, columns], bias=True)[0, 1]
    assert metrics["covariance"] == pytest.approx(expected)


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 3])
def test_clip_cov_drops_random_candidates_and_nothing_else(seed):
    case = make_case(2)
    objective = ClipCovObjective(clip_share=0.15, cov_low=0.3, cov_high=2.0)
    inputs = make_inputs(case, seed=seed)
    loss, metrics = objective(inputs)
    loss.backward()
    covariance, ratio = loop_covariance(case), np.exp(case["logprob"] - case["old"])
    clipped_places = {(i, t) for i, t in covariance if (ratio[i, t] > 1.2 if case["advantage"][i] > 0 else ratio[i, t] < 0.8)}
    candidates = [p for p, value in covariance.items() if 0.3 < value < 2.0 and p not in clipped_places]
    probability = 0.15 * len(covariance) / len(candidates)
    assert 0 < probability < 1
    expected, dropped = 0.0, 0
    for i, t in covariance:
        a, r = case["advantage"][i], ratio[i, t]
        clipped = (i, t) in clipped_places
        if (i, t) in candidates and python_uniform(seed, i, t) < probability:
            dropped += 1
            assert inputs.logprob.grad[i, t] == 0
            continue
        expected -= min(r * a, min(max(r, 0.8), 1.2) * a) / len(covariance)
        assert inputs.logprob.grad[i, t].item() == pytest.approx(0.0 if clipped else -r * a / len(covariance), abs=1e-14)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert finish_metrics(metrics)["covariance_selected"] == pytest.approx(dropped / len(covariance))


def share_dropped(case, objective, **extra):
    return np.mean([finish_metrics(objective(make_inputs(case, seed=seed, **extra))[1])["covariance_selected"] for seed in range(500)])


def test_clip_cov_drops_the_share_that_was_asked_for_also_beside_the_ratio_clip():
    """The count is over the candidates that the ratio clip leaves: with half of the tokens clipped as many are dropped as with none."""
    case = make_case(3)
    objective = ClipCovObjective(clip_share=0.02, cov_low=0.2, cov_high=5.0)
    tolerance = 5 * math.sqrt(0.02 / case["mask"].sum() / 500)
    outside = np.random.default_rng(0).random((B, T)) < 0.5
    for off in (0.0, 0.25):
        case["old"] = case["logprob"] - off * outside * np.sign(case["advantage"])[:, None]
        assert share_dropped(case, objective) == pytest.approx(0.02, abs=tolerance)
    # Statistics from before the updates know of no clip: the clipped candidates are not made up for.
    given = objective.statistics(*(torch.tensor(case[name]) for name in ("old", "advantage", "mask")))
    rested = loop_covariance(case | {"logprob": case["old"]})
    candidates = [p for p, value in rested.items() if 0.2 < value < 5.0]
    left = sum(not outside[p] for p in candidates) / len(candidates)
    assert share_dropped(case, objective, covariance=given) == pytest.approx(0.02 * left, abs=tolerance)
    assert left < 0.9


def test_a_share_that_all_candidates_cannot_fill_drops_them_all_and_none_without_any():
    case = make_case(3)
    case["old"] = case["logprob"]
    candidates = [v for v in loop_covariance(case).values() if 0.2 < v < 5.0]
    assert share_dropped(case, ClipCovObjective(clip_share=1.0, cov_low=0.2)) == pytest.approx(len(candidates) / case["mask"].sum())


@pytest.mark.parametrize("share", [1e-4, 0.1, 0.5, 1.0])
def test_kl_cov_penalises_the_largest_covariances(share):
    case = make_case(4)
    inputs = make_inputs(case)
    loss, metrics = KLCovObjective(kl_share=share, kl_coefficient=0.7)(inputs)
    loss.backward()
    covariance = loop_covariance(case)
    count = max(1, int(share * len(covariance)))
    chosen = sorted(covariance, key=covariance.get, reverse=True)[:count]
    expected = 0.0
    for i, t in covariance:
        a, d = case["advantage"][i], case["logprob"][i, t] - case["old"][i, t]
        penalty = 0.7 if (i, t) in chosen else 0.0
        expected += (-a * math.exp(d) + penalty * abs(d)) / len(covariance)
        gradient = (-a * math.exp(d) + penalty * math.copysign(1, d)) / len(covariance)
        assert inputs.logprob.grad[i, t].item() == pytest.approx(gradient, abs=1e-14)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert finish_metrics(metrics)["covariance_selected"] == pytest.approx(count / len(covariance))


@pytest.mark.parametrize("share", [0.05, 0.31, 0.5, 1.0])
def test_kl_cov_takes_exactly_k_on_ties_and_of_equals_the_first(share):
    """Three values of log-probability and two of advantage make covariances of six values only."""
    rng = np.random.default_rng(8)
    case = make_case(5) | {"logprob": rng.choice([-1.0, -2.0, -3.7], (B, T)), "advantage": rng.choice([-1.0, 2.5], B)}
    case["old"] = case["logprob"] - 1e-3  # off r = 1, where |d| has a slope
    covariance = {p: round(v, 9) for p, v in loop_covariance(case).items()}
    count = max(1, int(share * len(covariance)))
    chosen = sorted(covariance, key=lambda p: (-covariance[p], p))[:count]
    inputs, plain = make_inputs(case), make_inputs(case)
    KLCovObjective(kl_share=share, kl_coefficient=7.0)(inputs)[0].backward()
    KLCovObjective(kl_share=share, kl_coefficient=0.0)(plain)[0].backward()
    extra = (inputs.logprob.grad - plain.logprob.grad) * len(covariance)
    assert extra[torch.tensor(case["mask"])].count_nonzero() == count
    assert {tuple(p) for p in extra.nonzero().tolist()} == set(chosen)


def test_kl_cov_takes_exactly_k_of_the_step_whatever_the_micro_batches_and_the_updates_before():
    case = make_case(6)
    case["advantage"] = np.sign(case["advantage"])
    case["old"] = np.round(case["old"], 1)  # ties
    objective = KLCovObjective(kl_share=0.3)
    index = torch.arange(B) * 3 + 1
    given = objective.statistics(*(torch.tensor(case[n]) for n in ("old", "advantage", "mask")), index)
    as_numbers = CovarianceStatistics(**{name: float(value) for name, value in vars(given).items()})  # as a batch carries them
    tokens, selected = case["mask"].sum(), 0.0
    for rows in (slice(0, 2), slice(2, 5), slice(5, B)):
        part = {name: value[rows] for name, value in case.items()}
        total, _ = objective(make_inputs(part, covariance=as_numbers, sequence_index=index[rows]))[1]["covariance_selected"]
        selected += float(total)
    assert selected == int(0.3 * tokens)


def test_equal_advantages_still_select_exactly_k():
    case = make_case(5)
    case["advantage"] = np.zeros(B)
    metrics = KLCovObjective(kl_share=0.5)(make_inputs(case))[1]
    assert finish_metrics(metrics)["covariance_selected"] == int(0.5 * case["mask"].sum()) / case["mask"].sum()


def test_statistics_of_the_step_replace_those_of_the_micro_batch():
    case = make_case(6)
    for objective in (KLCovObjective(kl_share=0.1), ClipCovObjective(clip_share=0.3, cov_low=0.0)):
        other = make_case(7)
        other["advantage"] = other["advantage"] + 2.0
        given = objective.statistics(*(torch.tensor(other[name]) for name in ("logprob", "advantage", "mask")))
        assert objective(make_inputs(case))[0].item() != objective(make_inputs(case, covariance=given))[0].item()


def test_without_a_candidate_clip_cov_is_the_plain_objective():
    case = make_case(8)
    objective = ClipCovObjective(clip_share=1.0, cov_low=1e6, cov_high=1e7)
    assert objective(make_inputs(case))[0].item() == ClipObjective()(make_inputs(case))[0].item()


def test_counter_uniform_depends_on_the_place_alone_and_is_uniform():
    index = torch.tensor([5, 2**33 + 1, 0])
    values = counter_uniform(2**35 + 7, index, 4)
    for row, sequence in enumerate(index.tolist()):
        for position in range(4):
            assert values[row, position].item() == python_uniform(2**35 + 7, sequence, position)
    torch.testing.assert_close(counter_uniform(2**35 + 7, index[[2, 0]], 3), values[[2, 0], :3], rtol=0, atol=0)
    many = counter_uniform(1, torch.arange(400), 250).flatten().double()
    assert many.min() >= 0
    assert many.max() < 1
    counts = torch.histc(many, bins=100, min=0, max=1)
    chi_squared = ((counts - 1000).square() / 1000).sum().item()
    assert 50 < chi_squared < 160  # 99 degrees of freedom: both ends lie beyond 3.5 standard deviations
    grid = many.view(400, 250)
    assert abs(np.corrcoef(grid[:, :-1].flatten(), grid[:, 1:].flatten())[0, 1]) < 0.02
    assert abs(np.corrcoef(grid[:-1].flatten(), grid[1:].flatten())[0, 1]) < 0.02
