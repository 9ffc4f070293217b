"""The clipped objectives and aggregations against loops over numpy scalars in fp64, gradients against finite differences."""

import math

import numpy as np
import pytest
import torch

from aer_lightning.algorithms.objectives import (
    CISPOObjective,
    ClipCovObjective,
    ClipObjective,
    GSPOObjective,
    KLCovObjective,
    LossInputs,
    Objective,
    aggregate,
    finish_metrics,
    merge_metrics,
)
from aer_lightning.errors import ConfigError

B, T, MAX_TOKENS = 7, 6, 9


def make_case(seed=0, scale=0.4):
    rng = np.random.default_rng(seed)
    logprob = rng.normal(-1.5, 0.7, (B, T))
    lengths = rng.integers(1, T + 1, B)
    return {
        "logprob": logprob,
        "old": logprob + rng.normal(0, scale, (B, T)),
        "advantage": rng.normal(0, 1, B),
        "mask": np.arange(T)[None] < lengths[:, None],
    }


def make_inputs(case, rows=slice(None), requires_grad=False, dtype=torch.float64, **extra):
    mask = case["mask"]
    return LossInputs(
        logprob=torch.tensor(case["logprob"][rows], dtype=dtype, requires_grad=requires_grad),
        old_logprob=torch.tensor(case["old"][rows], dtype=dtype),
        advantage=torch.tensor(case["advantage"][rows], dtype=dtype),
        mask=torch.tensor(mask[rows]),
        num_tokens=float(mask.sum()),
        num_sequences=float(B),
        max_tokens=MAX_TOKENS,
        sequence_index=torch.arange(B)[rows],
        **extra,
    )


def loop_aggregate(token_loss, mask, aggregation):
    """The definition of each aggregation over the whole step."""
    per_sequence = [[token_loss[i, t] for t in range(T) if mask[i, t]] for i in range(B)]
    total = sum(sum(row) for row in per_sequence)
    return {
        "token_mean": total / sum(len(row) for row in per_sequence),
        "sequence_mean_token_sum": total / B,
        "sequence_mean_token_mean": sum(sum(row) / len(row) for row in per_sequence if row) / B,
        "constant_length": total / (B * MAX_TOKENS),
    }[aggregation]


def loop_clip(case, logprob, low, high, dual=None):
    loss = np.zeros((B, T))
    for i in range(B):
        for t in range(T):
            a, r = case["advantage"][i], math.exp(logprob[i, t] - case["old"][i, t])
            value = min(r * a, min(max(r, 1 - low), 1 + high) * a)
            loss[i, t] = -(max(value, dual * a) if dual is not None and a < 0 else value)
    return loss


def loop_gspo(case, logprob, low, high):
    loss = np.zeros((B, T))
    for i in range(B):
        tokens = [t for t in range(T) if case["mask"][i, t]]
        a = case["advantage"][i]
        s = math.exp(sum(logprob[i, t] - case["old"][i, t] for t in tokens) / len(tokens))
        loss[i, :] = -min(s * a, min(max(s, 1 - low), 1 + high) * a)
    return loss


def loop_cispo(case, logprob, low, high):
    """The weight is a constant: it is made from the case's log-probabilities, not from the ones that are varied."""
    loss = np.zeros((B, T))
    for i in range(B):
        for t in range(T):
            r = math.exp(case["logprob"][i, t] - case["old"][i, t])
            loss[i, t] = -min(max(r, 0 if low is None else 1 - low), 1 + high) * case["advantage"][i] * logprob[i, t]
    return loss


def finite_differences(function, logprob, step=1e-6):
    gradient = np.zeros_like(logprob)
    for place in np.ndindex(*logprob.shape):
        up, down = logprob.copy(), logprob.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (function(up) - function(down)) / (2 * step)
    return gradient


AGGREGATIONS = ["token_mean", "sequence_mean_token_sum", "sequence_mean_token_mean", "constant_length"]
CASES = [
    (ClipObjective(), lambda c, x: loop_clip(c, x, 0.2, 0.2), "token_mean"),
    (ClipObjective(clip_high=0.28), lambda c, x: loop_clip(c, x, 0.2, 0.28), "token_mean"),
    (ClipObjective(clip_low=0.1, clip_high=0.3, dual_clip=1.5), lambda c, x: loop_clip(c, x, 0.1, 0.3, 1.5), "token_mean"),
    *[(ClipObjective(aggregation=name), lambda c, x: loop_clip(c, x, 0.2, 0.2), name) for name in AGGREGATIONS[1:]],
    (GSPOObjective(), lambda c, x: loop_gspo(c, x, 3e-4, 4e-4), "sequence_mean_token_mean"),
    (GSPOObjective(0.1, 0.15, "token_mean"), lambda c, x: loop_gspo(c, x, 0.1, 0.15), "token_mean"),
    (CISPOObjective(clip_high=0.3), lambda c, x: loop_cispo(c, x, None, 0.3), "token_mean"),
    (CISPOObjective(0.2, 0.3, "constant_length"), lambda c, x: loop_cispo(c, x, 0.2, 0.3), "constant_length"),
]


@pytest.mark.parametrize("scale", [0.4, 1.5])
@pytest.mark.parametrize(("objective", "loop", "aggregation"), CASES)
def test_loss_and_gradient_equal_the_loops(objective, loop, aggregation, scale):
    case = make_case(seed=3, scale=scale)
    inputs = make_inputs(case, requires_grad=True)
    loss, _ = objective(inputs)
    loss.backward()

    def reference(x):
        return loop_aggregate(loop(case, x), case["mask"], aggregation)

    assert loss.item() == pytest.approx(reference(case["logprob"]), abs=1e-12)
    expected = finite_differences(reference, case["logprob"])
    np.testing.assert_allclose(inputs.logprob.grad.numpy(), expected, atol=2e-9)
    assert np.abs(expected).max() > 1e-3


EVERY = [
    ClipObjective(dual_clip=3.0),
    *[ClipObjective(aggregation=name) for name in AGGREGATIONS[1:]],
    GSPOObjective(0.1, 0.1),
    CISPOObjective(),
    ClipCovObjective(clip_share=0.3, cov_low=0.0),
    KLCovObjective(kl_share=0.2),
]


@pytest.mark.parametrize("objective", EVERY)
@pytest.mark.parametrize("cuts", [[3], [1, 2, 6], [1, 2, 3, 4, 5, 6]])
def test_losses_gradients_and_metrics_of_micro_batches_add_up(objective, cuts):
    case = make_case(seed=5)
    extra = {"seed": 11}
    if hasattr(objective, "statistics"):
        tensors = [torch.tensor(case[name]) for name in ("logprob", "advantage", "mask")]
        extra["covariance"] = objective.statistics(*tensors)
    whole = make_inputs(case, requires_grad=True, **extra)
    loss, metrics = objective(whole)
    loss.backward()
    parts, gradients, total = [], [], 0.0
    for begin, end in zip([0, *cuts], [*cuts, B], strict=True):
        part = make_inputs(case, slice(begin, end), requires_grad=True, **extra)
        share, part_metrics = objective(part)
        share.backward()
        total += share.item()
        parts.append(part_metrics)
        gradients.append(part.logprob.grad)
    assert total == pytest.approx(loss.item(), abs=1e-12)
    torch.testing.assert_close(torch.cat(gradients), whole.logprob.grad, atol=1e-12, rtol=0)
    assert finish_metrics(merge_metrics(*parts)) == pytest.approx(finish_metrics(metrics), abs=1e-6)


@pytest.mark.parametrize("objective", EVERY)
def test_padding_is_never_read(objective):
    case = make_case(seed=6)
    clean = make_inputs(case, requires_grad=True)
    loss, metrics = objective(clean)
    loss.backward()
    for name in ("logprob", "old"):
        case[name] = np.where(case["mask"], case[name], np.nan)
    dirty = make_inputs(case, requires_grad=True)
    dirty_loss, dirty_metrics = objective(dirty)
    dirty_loss.backward()
    assert dirty_loss.item() == pytest.approx(loss.item(), abs=1e-14)
    assert finish_metrics(dirty_metrics) == pytest.approx(finish_metrics(metrics))
    inside = dirty.mask
    torch.testing.assert_close(dirty.logprob.grad[inside], clean.logprob.grad[inside])
    assert (dirty.logprob.grad[~inside] == 0).all()


@pytest.mark.parametrize("objective", EVERY)
def test_a_token_weight_multiplies_the_loss_of_its_token(objective):
    case = make_case(seed=8)
    plain = make_inputs(case, requires_grad=True)
    doubled = make_inputs(case, requires_grad=True, token_weight=torch.full((B, T), 2.0, dtype=torch.float64))
    loss, twice = objective(plain)[0], objective(doubled)[0]
    assert twice.item() == pytest.approx(2 * loss.item(), rel=1e-12)
    weight = torch.ones(B, T, dtype=torch.float64)
    weight[2] = 0.0
    masked = make_inputs(case, requires_grad=True, token_weight=weight)
    objective(masked)[0].backward()
    loss.backward()
    assert (masked.logprob.grad[2] == 0).all()
    rest = [i for i in range(B) if i != 2]
    torch.testing.assert_close(masked.logprob.grad[rest], plain.logprob.grad[rest])


def test_metrics_count_what_the_clip_removed():
    ratio = np.array([[0.5, 1.0, 1.5], [0.5, 1.0, 1.5], [3.5, 0.1, 1.0]])
    inputs = LossInputs(
        logprob=torch.tensor(np.log(ratio)).requires_grad_(),
        old_logprob=torch.zeros(3, 3, dtype=torch.float64),
        advantage=torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64),
        mask=torch.tensor([[True] * 3, [True] * 3, [True, False, True]]),
        num_tokens=8,
        num_sequences=3,
        max_tokens=3,
    )
    loss, metrics = ClipObjective(dual_clip=3.0)(inputs)
    loss.backward()
    values = finish_metrics(metrics)
    # A > 0: only 1.5 is clipped; A < 0: only 0.5 is; 3.5 with A < 0 is held by the dual clip. The padding's 0.1 is not counted.
    assert values["clip_fraction_high"] == pytest.approx(1 / 8)
    assert values["clip_fraction_low"] == pytest.approx(1 / 8)
    assert values["clip_fraction_dual"] == pytest.approx(1 / 8)
    assert (inputs.logprob.grad == 0).tolist() == [[False, False, True], [True, False, False], [True, True, False]]
    inside = [0.5, 1.0, 1.5, 0.5, 1.0, 1.5, 3.5, 1.0]
    assert values["ratio"] == pytest.approx(np.mean(inside))
    assert values["ratio_max"] == pytest.approx(3.5)
    assert values["approx_kl"] == pytest.approx(np.mean([r - 1 - math.log(r) for r in inside]))


def test_first_update_of_a_rollout_is_the_plain_policy_gradient():
    case = make_case(seed=9)
    case["old"] = case["logprob"]
    expected = -torch.tensor(case["advantage"])[:, None] * torch.tensor(case["mask"]) / case["mask"].sum()
    for objective in (ClipObjective(), CISPOObjective(), KLCovObjective()):
        inputs = make_inputs(case, requires_grad=True)
        objective(inputs)[0].backward()
        torch.testing.assert_close(inputs.logprob.grad, expected)


def test_huge_ratios_stay_finite_in_fp32():
    case = make_case(seed=2)
    case["logprob"], case["old"] = np.full((B, T), -0.1), np.full((B, T), -200.0)
    case["advantage"][0] = 0.0
    for objective in EVERY:
        inputs = make_inputs(case, requires_grad=True, dtype=torch.float32)
        loss, metrics = objective(inputs)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(inputs.logprob.grad).all()
        assert all(math.isfinite(value) for value in finish_metrics(metrics).values())


def test_a_fully_masked_micro_batch_is_worth_nothing():
    case = make_case()
    case["mask"] = np.zeros((B, T), dtype=bool)
    for objective in EVERY:
        inputs = make_inputs(case, requires_grad=True)
        loss, metrics = objective(inputs)
        loss.backward()
        assert loss.item() == 0
        assert (inputs.logprob.grad == 0).all()
        assert finish_metrics(metrics) == {}


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: ClipObjective(clip_low=0.0), "clip_low"),
        (lambda: ClipObjective(clip_low=1.5), "clip_low"),
        (lambda: ClipObjective(clip_high=-0.1), "clip_high"),
        (lambda: ClipObjective(dual_clip=1.0), "dual_clip"),
        (lambda: ClipObjective(aggregation="mean"), "aggregation"),
        (lambda: GSPOObjective(clip_low=-1), "clip_low"),
        (lambda: CISPOObjective(clip_high=0), "clip_high"),
        (lambda: ClipCovObjective(clip_share=0), "clip_share"),
        (lambda: ClipCovObjective(cov_low=5, cov_high=1), "cov_low"),
        (lambda: KLCovObjective(kl_share=2), "kl_share"),
        (lambda: KLCovObjective(kl_coefficient=-1), "kl_coefficient"),
    ],
)
def test_impossible_options_are_named(make, option):
    with pytest.raises(ConfigError, match=rf"^{option}: "):
        make()


def test_inputs_of_a_wrong_shape_are_refused():
    case = make_case()
    with pytest.raises(ValueError, match="old_logprob"):
        make_inputs({**case, "old": case["old"][:, :-1]})
    with pytest.raises(ValueError, match="advantage"):
        make_inputs({**case, "advantage": case["advantage"][:-1]})
    with pytest.raises(ValueError, match="aggregation"):
        aggregate(torch.zeros(B, T), make_inputs(case), "sum")  # type: ignore[arg-type]


def test_objectives_are_chosen_by_class_path():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objective", type=Objective)
    path = "aer_lightning.algorithms.objectives"
    chosen = {
        f"{path}.ClipObjective": {"clip_high": 0.28},
        f"{path}.GSPOObjective": {"clip_low": 0.1},
        f"{path}.CISPOObjective": {"clip_high": 3.0},
        f"{path}.ClipCovObjective": {"clip_share": 0.1},
        f"{path}.KLCovObjective": {"kl_coefficient": 0.5},
        f"{path}.REPORObjective": {"zeta": 0.01},
        f"{path}.PositiveAdvantageObjective": {"positive_weight": 0.5},
        f"{path}.STAREObjective": {"share": 0.2},
        f"{path}.EntroPICObjective": {"probability": 0.9},
        f"{path}.SAPOObjective": {"tau_negative": 1.2},
        f"{path}.GMPOObjective": {"clip_high": 0.3},
    }
    for class_path, init_args in chosen.items():
        config = parser.parse_object({"objective": {"class_path": class_path, "init_args": init_args}})
        objective = parser.instantiate_classes(config).objective
        assert type(objective).__name__ == class_path.rsplit(".", 1)[1]
        assert {name: getattr(objective, name) for name in init_args} == init_args
