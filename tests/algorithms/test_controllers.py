"""Difficulty weights and controllers against hand-computed numbers, their limits, and closed loops."""

import ast
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aer_lightning.algorithms.controllers as controllers
from aer_lightning.algorithms.controllers import (
    AEntController,
    Controller,
    ExponentialAverage,
    ProportionalController,
    SignController,
    SkyworkController,
    check_difficulty,
    difficulty_weight,
    target_entropy,
)
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


def test_target_is_a_share_of_the_anchor_or_absolute():
    assert target_entropy(0.5, 0.4) == pytest.approx(0.2)
    assert target_entropy(0.5, 0.4, absolute=0.3) == 0.3
    for tau in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=r"^tau: "):
            target_entropy(0.5, tau)
    with pytest.raises(ConfigError, match=r"^tau: .*absolute"):
        target_entropy(0.0, 0.4)
    with pytest.raises(ConfigError, match=r"^absolute: "):
        target_entropy(0.5, 0.4, absolute=0.0)


def test_proportional_update_by_hand():
    rule = ProportionalController(eta=0.1, alpha_max=0.5)
    assert rule.update(0.2, entropy=0.3, target=0.4) == pytest.approx(0.2 + 0.1 * 0.25)
    assert rule.update(0.2, entropy=0.5, target=0.4) == pytest.approx(0.2 - 0.1 * 0.25)
    assert rule.update(0.01, entropy=4.0, target=0.4) == 0.0
    assert rule.update(0.49, entropy=0.0, target=0.4) == 0.5
    assert rule.update(0.3, entropy=0.4, target=0.4) == 0.3


def test_sign_update_by_hand():
    rule = SignController(eta=0.1, alpha_max=0.5)
    assert rule.update(0.2, entropy=0.39, target=0.4) == pytest.approx(0.3)
    assert rule.update(0.2, entropy=0.41, target=0.4) == pytest.approx(0.1)
    assert rule.update(0.2, entropy=0.4, target=0.4) == 0.2
    assert rule.update(0.45, entropy=0.1, target=0.4) == 0.5
    assert rule.update(0.05, entropy=0.9, target=0.4) == 0.0


@pytest.mark.parametrize("rule", [ProportionalController(), SignController()])
def test_alpha_at_zero_recovers_when_entropy_falls_below_the_target(rule):
    assert isinstance(rule, Controller)
    assert rule.alpha_init == 0
    assert rule.update(0.0, entropy=0.1, target=0.2) > 0


@settings(max_examples=100, deadline=None)
@given(
    rule=st.sampled_from([ProportionalController(eta=0.3, alpha_max=0.7), SignController(eta=0.3, alpha_max=0.7)]),
    alpha=st.floats(0, 0.7),
    entropy=st.floats(0, 20),
    target=st.floats(1e-3, 10),
)
def test_alpha_stays_in_its_range_and_never_moves_away_from_the_target(rule, alpha, entropy, target):
    after = rule.update(alpha, entropy, target)
    assert 0 <= after <= 0.7
    assert (after - alpha) * (target - entropy) >= 0


@pytest.mark.parametrize("unit", [1.0, math.log2(math.e)])
def test_proportional_step_has_no_unit_of_entropy(unit):
    rule = ProportionalController()
    assert rule.update(0.1, 0.3 * unit, 0.4 * unit) == pytest.approx(rule.update(0.1, 0.3, 0.4))


def plant(entropy, alpha):
    """A policy that loses a tenth of its entropy a rollout and wins it back in proportion to alpha."""
    return max(entropy * 0.9 + 0.4 * alpha, 1e-6)


def test_closed_loop_proportional_settles_at_the_target_and_sign_cycles_around_it():
    end = {}
    for rule in (ProportionalController(eta=0.02), SignController(eta=0.02)):
        alpha, entropy, trace = 0.0, 1.0, []
        for _ in range(600):
            entropy = plant(entropy, alpha)
            alpha = rule.update(alpha, entropy, 0.4)
            trace.append((entropy, alpha))
        end[type(rule).__name__] = trace[-40:]
    assert all(abs(h - 0.4) < 1e-3 for h, _ in end["ProportionalController"])
    alphas = [a for _, a in end["SignController"]]
    assert max(alphas) - min(alphas) >= 0.02
    assert abs(sum(h for h, _ in end["SignController"]) / 40 - 0.4) < 0.05


def test_skywork_follows_its_table_row():
    with pytest.raises(ConfigError, match=r"^alpha_init: "):
        SkyworkController(alpha_min=0.1, alpha_init=0.0)
    rule = SkyworkController(target=0.2, delta=0.005, alpha_min=0.001, alpha_max=0.02, alpha_init=0.001)
    assert rule.update(0.01, 0.2) == pytest.approx(0.015)
    assert rule.update(0.01, 0.1) == pytest.approx(0.015)
    assert rule.update(0.01, 0.21) == pytest.approx(0.005)
    assert rule.update(0.018, 0.1) == 0.02
    assert rule.update(0.002, 0.9) == 0.001
    assert rule.applied(0.01, previous_entropy=0.2) == 0.01
    assert rule.applied(0.01, previous_entropy=0.21) == 0.0
    assert rule.applied(0.01, previous_entropy=None) == 0.0


def test_aent_follows_its_table_row():
    rule = AEntController(entropy_low=0.2, entropy_high=0.5, lr=0.1, alpha_min=0.01, alpha_max=0.3, alpha_init=0.05)
    for entropy in (0.2, 0.35, 0.5):
        assert rule.update(0.1, entropy) == 0.1
    assert rule.update(0.1, 0.1) == pytest.approx(0.11)
    assert rule.update(0.1, 0.8) == pytest.approx(0.07)
    assert rule.update(0.1, 9.0) == 0.01
    assert AEntController(entropy_low=2.0, entropy_high=3.0, lr=1.0, alpha_max=0.3).update(0.1, 0.0) == 0.3


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: ProportionalController(eta=0.0), "eta"),
        (lambda: ProportionalController(eta=math.nan), "eta"),
        (lambda: ProportionalController(alpha_max=0.0), "alpha_max"),
        (lambda: ProportionalController(alpha_max=math.inf), "alpha_max"),
        (lambda: ProportionalController(alpha_max=0.1, alpha_init=0.2), "alpha_init"),
        (lambda: SignController(eta=-0.1), "eta"),
        (lambda: SignController(alpha_max=-1.0), "alpha_max"),
        (lambda: SignController(alpha_init=-0.1), "alpha_init"),
        (lambda: SkyworkController(target=0.0), "target"),
        (lambda: SkyworkController(delta=0.0), "delta"),
        (lambda: SkyworkController(alpha_min=1.0, alpha_max=0.5), "alpha_min"),
        (lambda: AEntController(entropy_low=0.5, entropy_high=0.4), "entropy_low"),
        (lambda: AEntController(lr=0.0), "lr"),
        (lambda: AEntController(alpha_min=-0.1), "alpha_min"),
        (lambda: ExponentialAverage(decay=1.0), "decay"),
        (lambda: ExponentialAverage(decay=-0.1), "decay"),
    ],
)
def test_options_out_of_range_are_named(make, option):
    with pytest.raises(ConfigError, match=rf"^{option}: "):
        make()


@pytest.mark.parametrize("rule", [ProportionalController(), SignController()])
def test_an_unmeasured_entropy_never_moves_alpha(rule):
    with pytest.raises(ValueError, match="entropy"):
        rule.update(0.1, math.nan, 0.4)
    with pytest.raises(ValueError, match="target"):
        rule.update(0.1, 0.3, 0.0)
    for baseline in (SkyworkController(), AEntController()):
        with pytest.raises(ValueError, match="entropy"):
            baseline.update(0.1, math.inf)


def test_exponential_average():
    average, mean = ExponentialAverage(0.75), None
    for value in (1.0, 2.0, 4.0):
        mean = average.update(mean, value)
    assert mean == pytest.approx(0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4)
    assert ExponentialAverage().update(5.0, 1.0) == 1.0


def test_the_arithmetic_needs_neither_torch_nor_lightning():
    tree = ast.parse(Path(controllers.__file__).read_text())
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)} | {
        alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names
    }
    assert imported <= {"__future__", "math", "dataclasses", "typing", "aer_lightning.errors"}
