"""The rivals' rules against their sources written out, and each by hand on a short trajectory."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aer_lightning.algorithms.feedback import ClipHighRule, FeedbackRule, GateRule, PositiveWeightRule, SureWeightRule, ZetaRule
from aer_lightning.errors import ConfigError

RULES = [ZetaRule(), ClipHighRule(), GateRule(), GateRule(step=0.01), SureWeightRule(), PositiveWeightRule()]
nats = st.floats(0.0, 3.0)


def values(rule, entropies, target=0.4):
    state, seen = rule.start(), []
    for entropy in entropies:
        seen.append(state.value)
        state = rule.update(state, entropy, target)
    return [*seen, state.value]


def skyrl_zeta(zeta, entropy, target, smallest, largest):
    """The four branches of the pull request, one after the other."""
    if entropy > target:
        if zeta >= 0:
            return zeta / 2 if zeta / 2 >= smallest else -smallest
        return max(-largest, 2 * zeta)
    if entropy < target:
        if zeta >= 0:
            return min(largest, 2 * zeta)
        return zeta / 2 if zeta / 2 <= -smallest else smallest
    return zeta


@settings(max_examples=100, deadline=None)
@given(st.lists(nats, max_size=30), st.floats(0.1, 2.0), st.sampled_from([1e-3, -2e-3, 0.05, 1e-4]))
def test_zeta_takes_the_branches_of_its_source(entropies, target, init):
    rule, zeta = ZetaRule(init=init), init
    state = rule.start()
    for entropy in entropies:
        state, zeta = rule.update(state, entropy, target), skyrl_zeta(zeta, entropy, target, 1e-4, 0.05)
        assert state.value == pytest.approx(zeta, rel=1e-12)


def test_zeta_by_hand():
    low, high = 0.2, 0.6
    assert values(ZetaRule(0.01), [low, low, low, low, high]) == pytest.approx([0.01, 0.02, 0.04, 0.05, 0.05, 0.025])
    assert values(ZetaRule(3e-4), [high, high, high, high, low, low]) == pytest.approx([3e-4, 1.5e-4, -1e-4, -2e-4, -4e-4, -2e-4, -1e-4])
    assert values(ZetaRule(0.01), [0.4]) == [0.01, 0.01]


def test_clip_high_by_hand():
    assert values(ClipHighRule(), [0.2, 0.2, 0.6, 0.4]) == pytest.approx([0.28, 0.56, 1.0, 0.5, 0.5])
    assert values(ClipHighRule(init=0.1, factor=1.5, smallest=0.08), [0.6, 0.2]) == pytest.approx([0.1, 0.08, 0.12])


def test_the_gate_is_open_below_the_target_alone():
    assert values(GateRule(weight=1.1), [0.6, 0.4, 0.39, 0.2, 0.5]) == [1.0, 1.0, 1.0, 1.1, 1.1, 1.0]
    stepping = values(GateRule(weight=1.1, step=0.25), [0.2, 0.2, 0.6, 0.2, 0.6, 0.6])
    assert stepping == pytest.approx([1.0, 1.35, 1.5, 1.0, 1.5, 1.0, 1.0]), "W itself goes 1.35, 1.5, 1.25, 1.5, 1.25, 1"


@settings(max_examples=50, deadline=None)
@given(st.lists(nats, min_size=1, max_size=30), st.floats(0, 2), st.floats(0.001, 0.5))
def test_the_sure_weight_is_proportional_and_integral(entropies, kp, ki):
    """alpha of rollout k + 1 = clip(kp e_k + ki (e_0 + .. + e_{k-1})): the sum is added to after it was used, as in the source."""
    seen = values(SureWeightRule(kp, ki), entropies)
    errors = [entropy - 0.4 for entropy in entropies]
    for k, error in enumerate(errors):
        expected = min(max(kp * error + ki * math.fsum(errors[:k]), -1), 1)
        assert seen[k + 1] == pytest.approx(expected, abs=1e-12)


def test_the_positive_weight_steps_by_hand():
    assert values(PositiveWeightRule(), [0.6, 0.4, 0.2]) == pytest.approx([0.0, 0.05, 0.1, 0.05])
    assert values(PositiveWeightRule(init=0.97), [0.6, 0.6]) == pytest.approx([0.97, 1.0, 1.0])
    assert values(PositiveWeightRule(), [0.2]) == [0.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(RULES), st.lists(nats, max_size=40), st.floats(0.05, 2.0))
def test_every_rule_stays_within_its_bounds_and_pushes_the_right_way(rule, entropies, target):
    assert isinstance(rule, FeedbackRule)
    low, high = rule.bounds
    # What raises the entropy: more zeta, more room above, more weight on surprises, less on what is sure, less on what was right.
    sign = -1 if isinstance(rule, SureWeightRule | PositiveWeightRule) else 1
    state = rule.start()
    for entropy in entropies:
        after = rule.update(state, entropy, target)
        assert low <= after.value <= high
        assert rule.update(state, entropy, target) == after, "a function of what it is given"
        below, above = rule.update(state, 0.5 * target, target), rule.update(state, 2 * target, target)
        assert sign * below.value >= sign * above.value
        state = after


@pytest.mark.parametrize("rule", RULES)
def test_what_was_not_measured_moves_nothing(rule):
    for entropy, target in ((math.nan, 0.4), (0.4, 0.0), (0.4, math.inf)):
        with pytest.raises(ValueError, match="entropy"):
            rule.update(rule.start(), entropy, target)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: ZetaRule(init=1.0), "init"),
        (lambda: ZetaRule(init=0.0), "init"),
        (lambda: ZetaRule(smallest=0), "smallest"),
        (lambda: ClipHighRule(factor=1.0), "factor"),
        (lambda: ClipHighRule(init=2.0), "init"),
        (lambda: ClipHighRule(smallest=-1), "smallest"),
        (lambda: GateRule(weight=0.9), "weight"),
        (lambda: GateRule(weight=2.0), "weight"),
        (lambda: GateRule(step=-0.1), "step"),
        (lambda: SureWeightRule(kp=-1), "kp"),
        (lambda: SureWeightRule(ki=-1), "ki"),
        (lambda: SureWeightRule(0, 0), "kp"),
        (lambda: SureWeightRule(limit=2), "limit"),
        (lambda: PositiveWeightRule(init=1.1), "init"),
        (lambda: PositiveWeightRule(step=0), "step"),
    ],
)
def test_impossible_options_are_named(make, option):
    with pytest.raises(ConfigError, match=rf"^{option}: "):
        make()
