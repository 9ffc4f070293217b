"""Advantages and DAPO's shaping against the definitions over Python floats."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aer_lightning.algorithms.advantages import check_estimator, compute_advantages, is_mixed_group, mask_truncated, soft_overlong_penalty
from aer_lightning.errors import ConfigError

EPS = 1e-6
GROUPS = [[1.0, 0.0, 0.0, 1.0], [0.3, 0.3, 0.3, 0.3], [0.0, 0.0, 0.0, 1.0], [-0.5, 1.0, 0.25, 0.1]]


def loop_advantages(groups, estimator):
    flat = [r for group in groups for r in group]
    centred = [r - statistics.fmean(group) for group in groups for r in group]
    result = []
    for group in groups:
        row = []
        for j, r in enumerate(group):
            mean = statistics.fmean(group)
            others = [x for k, x in enumerate(group) if k != j]
            row.append(
                {
                    "grpo": lambda r=r, mean=mean, group=group: (r - mean) / (statistics.stdev(group) + EPS),
                    "dr_grpo": lambda r=r, mean=mean: r - mean,
                    "rloo": lambda r=r, others=others: r - statistics.fmean(others),
                    "reinforce_pp": lambda r=r: (r - statistics.fmean(flat)) / (statistics.stdev(flat) + EPS),
                    "reinforce_pp_baseline": lambda r=r, mean=mean: (r - mean) / (statistics.stdev(centred) + EPS),
                }[estimator]()
            )
        result.append(row)
    return result


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"])
def test_advantages_equal_their_definitions(estimator):
    result = compute_advantages(torch.tensor(GROUPS, dtype=torch.float64), estimator, EPS)
    torch.testing.assert_close(result, torch.tensor(loop_advantages(GROUPS, estimator), dtype=torch.float64), atol=1e-9, rtol=0)
    assert result.abs().max() > 0.4


@settings(max_examples=60, deadline=None)
@given(
    value=st.floats(-10, 10, width=32),
    size=st.integers(2, 33),
    estimator=st.sampled_from(["grpo", "dr_grpo", "rloo", "reinforce_pp_baseline"]),
    eps=st.sampled_from([0.0, 1e-6]),
)
def test_a_group_of_equal_rewards_gets_exactly_nothing(value, size, estimator, eps):
    rewards = torch.full((2, size), value, dtype=torch.float32)
    rewards[1, 0] += 1.0
    result = compute_advantages(rewards, estimator, eps)
    assert (result[0] == 0).all()
    assert (result[1] != 0).all()
    assert torch.isfinite(result).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=4), min_size=1, max_size=6))
def test_advantages_sum_to_zero_and_keep_the_order_of_rewards(groups):
    rewards = torch.tensor(groups)
    for estimator in ("grpo", "dr_grpo", "rloo", "reinforce_pp_baseline"):
        result = compute_advantages(rewards, estimator)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.sum(1), torch.zeros(len(groups)), atol=1e-5, rtol=0)
        assert (result[rewards == 1] >= 0).all()
        assert (result[rewards == 0] <= 0).all()
    total = compute_advantages(rewards, "reinforce_pp").sum().item()
    assert total == pytest.approx(0, abs=1e-4)


def test_reinforce_pp_per_token_whitens_over_the_tokens():
    """Against the rewards written out token by token; and with equal lengths it is the plain one but for the divisor."""
    lengths = [[1, 5, 2, 9], [4, 4, 4, 4], [3, 1, 7, 2], [6, 2, 2, 8]]
    tokens = [r for row, counts in zip(GROUPS, lengths, strict=True) for r, n in zip(row, counts, strict=True) for _ in range(n)]
    rewards = torch.tensor(GROUPS, dtype=torch.float64)
    result = compute_advantages(rewards, "reinforce_pp_token", EPS, torch.tensor(lengths))
    expected = [[(r - statistics.fmean(tokens)) / (statistics.stdev(tokens) + EPS) for r in row] for row in GROUPS]
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64))
    assert (result * torch.tensor(lengths)).sum().item() == pytest.approx(0, abs=1e-9)
    many = compute_advantages(rewards, "reinforce_pp_token", 0.0, torch.full((4, 4), 100000))
    spread = math.sqrt(15 / 16)  # divisor 16 instead of 15
    torch.testing.assert_close(many * spread, compute_advantages(rewards, "reinforce_pp", 0.0), atol=1e-5, rtol=0)
    assert (compute_advantages(torch.ones(2, 1), "reinforce_pp_token", 0.0, torch.ones(2, 1)) == 0).all()
    with pytest.raises(ValueError, match="lengths"):
        compute_advantages(rewards, "reinforce_pp_token")


def test_a_rollout_of_equal_rewards_has_no_batch_normalised_advantage():
    assert (compute_advantages(torch.full((3, 4), 0.1), "reinforce_pp", 0.0) == 0).all()
    # Without a group baseline an all-wrong group is pushed down when other groups do better.
    assert (compute_advantages(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), "reinforce_pp")[0] < 0).all()


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo", "reinforce_pp_baseline"])
def test_group_advantages_need_a_group(estimator):
    with pytest.raises(ConfigError, match=r"^responses_per_prompt: .*at least 2, got 1"):
        compute_advantages(torch.ones(4, 1), estimator)
    with pytest.raises(ConfigError, match=r"^responses_per_prompt: "):
        check_estimator(estimator, 1)


def test_batch_normalisation_works_with_single_responses():
    result = compute_advantages(torch.tensor([[0.0], [1.0], [1.0]]), "reinforce_pp")
    assert result.shape == (3, 1)
    assert result[0] < 0 < result[1]
    assert compute_advantages(torch.tensor([[1.0]]), "reinforce_pp").item() == 0


def test_bad_options_are_named():
    with pytest.raises(ConfigError, match=r"^advantage_estimator: .*grpo"):
        compute_advantages(torch.ones(2, 2), "gae")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^advantage_eps: "):
        compute_advantages(torch.ones(2, 2), eps=-1.0)
    with pytest.raises(ValueError, match="P, G"):
        compute_advantages(torch.ones(4))


@pytest.mark.parametrize(
    ("accuracy", "tolerance", "mixed"),
    [(0.0, 0.0, False), (1.0, 0.0, False), (1 / 16, 0.0, True), (1 / 16, 0.1, False), (15 / 16, 0.1, False), (0.5, 0.1, True)],
)
def test_mixed_groups(accuracy, tolerance, mixed):
    assert bool(is_mixed_group(accuracy, tolerance)) is mixed
    assert is_mixed_group(torch.tensor([accuracy, 0.5]), tolerance).tolist() == [mixed, True]


def test_tolerance_that_leaves_no_mixed_group_is_refused():
    with pytest.raises(ConfigError, match=r"^tolerance: "):
        is_mixed_group(0.5, 0.5)


def test_soft_overlong_penalty_follows_the_paper_piece_by_piece():
    limit, buffer = 20, 5

    def paper(length):
        if length <= limit - buffer:
            return 0.0
        return (limit - buffer - length) / buffer if length <= limit else -1.0

    lengths = list(range(30))
    result = soft_overlong_penalty(torch.tensor(lengths), limit, buffer)
    assert result.tolist() == pytest.approx([paper(n) for n in lengths])
    assert soft_overlong_penalty(torch.tensor([18]), limit, buffer, factor=0.5).item() == pytest.approx(0.5 * paper(18))
    for options, name in (((20, 0), "overlong_buffer"), ((20, 21), "overlong_buffer"), ((20, 5, -1.0), "overlong_factor")):
        with pytest.raises(ConfigError, match=rf"^{name}: "):
            soft_overlong_penalty(torch.tensor([1]), *options)


def test_truncated_responses_leave_the_loss_whole():
    mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    assert mask_truncated(mask, torch.tensor([False, True, False])).tolist() == [[True, True, False], [False] * 3, [True, False, False]]
    assert math.isclose(mask.sum().item(), 6)


def test_fp32_rewards_are_normalised_in_fp64():
    rewards = torch.tensor([[1000.1, 1000.2, 1000.4, 1000.3], [0.0, 1.0, 1.0, 0.0]])
    for estimator in ("grpo", "rloo", "reinforce_pp"):
        expected = torch.tensor(loop_advantages(rewards.double().tolist(), estimator))
        torch.testing.assert_close(compute_advantages(rewards, estimator, EPS), expected, atol=1e-6, rtol=1e-6)
