"""Controllers against hand-computed numbers, their limits, and closed loops."""

import ast
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aer_lightning.algorithms.controllers as controllers
from aer_lightning.algorithms.controllers import (
    AEntController,
    Controller,
    ExponentialAverage,
    PIController,
    ProportionalController,
    SignController,
    SkyworkController,
    target_entropy,
)
from aer_lightning.errors import ConfigError


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


def test_pi_update_by_hand():
    rule = PIController(kp=0.2, ki=0.05, alpha_max=0.5, alpha_min=-0.1)
    # H* = .4; e from (.4 - .5) / .4 = -.25 to (.4 - .3) / .4 = .25: .1 + .2 x .5 + .05 x .25
    assert rule.update(0.1, entropy=0.3, target=0.4, previous=0.5) == pytest.approx(0.1 + 0.2 * 0.5 + 0.05 * 0.25)
    assert rule.update(0.1, entropy=0.3, target=0.4) == pytest.approx(0.1 + 0.05 * 0.25), "before there is a change, the integral alone"
    assert rule.update(0.1, entropy=0.4, target=0.4, previous=0.4) == 0.1
    assert rule.update(0.1, entropy=4.0, target=0.4, previous=0.4) == -0.1
    assert rule.update(0.4, entropy=0.0, target=0.4, previous=0.4) == 0.5


def test_the_clip_is_the_anti_windup():
    """However long it sat at the limit, it leaves it in the rollout after the error has changed its sign."""
    rule, alpha, previous = PIController(kp=0.3, ki=0.05, alpha_max=0.2), 0.1, None
    for entropy in [0.1] * 50 + [0.5]:
        alpha, previous = rule.update(alpha, entropy, 0.4, previous), entropy
    assert alpha == 0.0, "the fall of the error by 1 takes it off the upper limit at once"
    alpha = rule.update(alpha, 0.35, 0.4, previous)
    assert alpha == pytest.approx(0.3 * 0.375 + 0.05 * 0.125)


def test_a_lower_limit_below_zero_pulls_the_entropy_down():
    """A policy that stays at 1 by itself reaches .4 from above only with a coefficient below 0."""
    ends = {}
    for low in (0.0, -0.3):
        rule, alpha, entropy, previous = PIController(kp=0.2, ki=0.02, alpha_min=low), 0.0, 1.0, None
        for _ in range(200):
            alpha, previous = rule.update(alpha, entropy, 0.4, previous), entropy
            entropy = max(entropy + 0.5 * alpha + 0.1 * (1.0 - entropy), 1e-6)
        ends[low] = entropy, alpha
    assert ends[0.0] == (1.0, 0.0)
    assert ends[-0.3][0] == pytest.approx(0.4, abs=1e-3) and ends[-0.3][1] == pytest.approx(-0.12, abs=1e-3)


RULES = [
    ProportionalController(eta=0.3, alpha_max=0.7),
    SignController(eta=0.3, alpha_max=0.7),
    PIController(kp=0.9, ki=0.3, alpha_max=0.7),
]


@pytest.mark.parametrize("rule", [PIController(), ProportionalController(), SignController()])
def test_alpha_at_zero_recovers_when_entropy_falls_below_the_target(rule):
    assert isinstance(rule, Controller)
    assert rule.alpha_init == 0
    assert rule.update(0.0, entropy=0.1, target=0.2) > 0
    assert rule.update(0.0, entropy=0.1, target=0.2, previous=0.1) > 0
    assert rule.update(0.0, entropy=0.1, target=0.2, previous=0.3) > 0


@settings(max_examples=100, deadline=None)
@given(
    rule=st.sampled_from(RULES),
    alpha=st.floats(0, 0.7),
    entropy=st.floats(0, 20),
    target=st.floats(1e-3, 10),
)
def test_alpha_stays_in_its_range_and_never_moves_away_from_the_target(rule, alpha, entropy, target):
    after = rule.update(alpha, entropy, target)
    assert 0 <= after <= 0.7
    assert (after - alpha) * (target - entropy) >= 0
    steady = rule.update(alpha, entropy, target, previous=entropy)
    assert steady == after, "an entropy that does not change leaves the integral alone"


@settings(max_examples=100, deadline=None)
@given(alpha=st.floats(-0.2, 0.7), entropy=st.floats(0, 20), previous=st.floats(0, 20), target=st.floats(1e-3, 10))
def test_pi_stays_in_its_range_and_is_damped(alpha, entropy, previous, target):
    rule = PIController(kp=0.9, ki=0.3, alpha_max=0.7, alpha_min=-0.2)
    after = rule.update(alpha, entropy, target, previous)
    assert -0.2 <= after <= 0.7
    assert (after - rule.update(alpha, entropy, target)) * (previous - entropy) >= 0, "a falling entropy gets more than a still one"


@pytest.mark.parametrize("unit", [1.0, math.log2(math.e)])
@pytest.mark.parametrize("rule", [PIController(), ProportionalController()])
def test_a_step_has_no_unit_of_entropy(rule, unit):
    assert rule.update(0.1, 0.3 * unit, 0.4 * unit, 0.35 * unit) == pytest.approx(rule.update(0.1, 0.3, 0.4, 0.35))


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


def test_on_a_policy_that_integrates_pi_settles_where_proportional_swings():
    """Entropy falls by 2 % a rollout and rises by .3 alpha, as measured on the study's policy (docs/control.md)."""
    spread = {}
    for rule in (PIController(kp=0.4, ki=0.03, alpha_init=0.05), ProportionalController(eta=0.03, alpha_init=0.05)):
        alpha, entropy, previous, trace = rule.alpha_init, 1.0, None, []
        for _ in range(200):
            alpha, previous = rule.update(alpha, entropy, 0.5, previous), entropy
            entropy *= math.exp(0.3 * alpha - 0.02)
            trace.append(entropy / 0.5 - 1)
        spread[type(rule).__name__] = max(map(abs, trace[100:]))
    assert spread["PIController"] < 0.01 and spread["ProportionalController"] > 0.2


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
        (lambda: PIController(kp=-0.1), "kp"),
        (lambda: PIController(kp=0.0), "kp"),
        (lambda: PIController(ki=-0.1), "ki"),
        (lambda: PIController(ki=math.nan), "ki"),
        (lambda: PIController(alpha_min=0.1), "alpha_min"),
        (lambda: ProportionalController(alpha_min=-math.inf), "alpha_min"),
        (lambda: PIController(alpha_min=-0.1, alpha_init=-0.2), "alpha_init"),
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


@pytest.mark.parametrize("rule", [PIController(), ProportionalController(), SignController()])
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


def test_speed_keeps_the_damping():
    """kp sqrt(b / ki) / 2 with b n times as large, up to a factor of 4 on kp."""
    rule = PIController(kp=0.8, ki=0.04)
    for speed in (0.1, 1.0, 9.0):
        moved = rule.at_speed(speed)
        assert moved.kp * (speed / moved.ki) ** 0.5 == pytest.approx(0.8 * (1 / 0.04) ** 0.5) and moved.ki == rule.ki
    assert rule.at_speed(1e6).kp == pytest.approx(0.2) and rule.at_speed(1e-6).kp == pytest.approx(3.2)
    for speed in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="speed"):
            rule.at_speed(speed)
