"""Difficulty weights against hand-computed numbers, and their normalisation against the mean that it promises."""

import doctest
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aer_lightning.algorithms.difficulty as difficulty
from aer_lightning.algorithms.difficulty import check_difficulty, check_scale, difficulty_weight, normalisation
from aer_lightning.errors import ConfigError

TABLE = [  # g, then hinge, gate, linear, uniform at rho = 0.4
    (0.0, 1.0, 1.0, 1.0, 1.0),
    (0.1, 0.75, 1.0, 0.9, 1.0),
    (0.3, 0.25, 1.0, 0.7, 1.0),
    (0.4, 0.0, 0.0, 0.6, 1.0),
    (0.9, 0.0, 0.0, 0.1, 1.0),
    (1.0, 0.0, 0.0, 0.0, 1.0),
]


@pytest.mark.parametrize("column", range(4))
def test_difficulty_weights_of_floats_and_tensors(column):
    shape = ("hinge", "gate", "linear", "uniform")[column]
    accuracies, expected = [row[0] for row in TABLE], [row[1 + column] for row in TABLE]
    assert [difficulty_weight(g, 0.4, shape) for g in accuracies] == pytest.approx(expected)
    tensor = torch.tensor(accuracies, dtype=torch.float64)
    result = difficulty_weight(tensor, 0.4, shape)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64))
    assert difficulty_weight(0, 0.4, shape) == 1.0


@pytest.mark.parametrize("rho", [0.0, -0.1, 1.1, math.nan])
def test_rho_out_of_range_is_refused(rho):
    with pytest.raises(ConfigError, match=r"^rho: "):
        difficulty_weight(0.5, rho)


def test_unknown_shape_is_refused():
    with pytest.raises(ConfigError, match=r"^shape: .*hinge"):
        check_difficulty(0.5, "step")


def mean_weight(tokens, rho, shape, max_scale):
    """Token by token, without the function's own sum."""
    scale, offset = normalisation(tokens, rho, shape, max_scale)
    size = len(tokens) - 1
    per_token = torch.cat([torch.full((n,), c / size, dtype=torch.float64) for c, n in enumerate(tokens)])
    weights = scale * difficulty_weight(per_token, rho, shape) + offset
    return float(weights.mean()), float(weights.max())


@settings(max_examples=100, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 50), min_size=2, max_size=9).filter(any),
    rho=st.floats(0.05, 1.0),
    shape=st.sampled_from(["hinge", "gate", "linear", "uniform"]),
    max_scale=st.floats(1, 20),
)
def test_normalised_weights_have_mean_one_and_a_bound(tokens, rho, shape, max_scale):
    mean, largest = mean_weight(tokens, rho, shape, max_scale)
    assert mean == pytest.approx(1.0)
    assert largest <= max_scale + 1 + 1e-9


def test_normalisation_is_a_scale_where_enough_prompts_are_hard():
    # hinge at rho = .5 with G = 4: weights 1, .5, 0, 0, 0; (30 + 20 x .5) / 100 = .4.
    assert normalisation([30, 20, 20, 20, 10]) == pytest.approx((2.5, 0.0))
    assert normalisation([30, 20, 20, 20, 10], shape="uniform") == pytest.approx((1.0, 0.0))


def test_without_a_hard_prompt_all_get_the_same():
    scale, offset = normalisation([0, 0, 0, 5, 5])
    assert offset == 1.0 and [scale * difficulty_weight(g) + offset for g in (0.75, 1.0)] == [1.0, 1.0]


def test_a_rollout_without_tokens_is_an_error():
    for nothing in ([], [0.0, 0.0]):
        with pytest.raises(ValueError, match="tokens_by_correct"):
            normalisation(nothing)


@pytest.mark.parametrize("scale", [0.9, 0.0, -1.0, math.inf, math.nan])
def test_a_scale_out_of_range_is_named(scale):
    with pytest.raises(ConfigError, match=r"^max_scale: "):
        check_scale(scale)


def test_the_worked_example():
    assert doctest.testmod(difficulty).failed == 0 and doctest.testmod(difficulty).attempted >= 2
