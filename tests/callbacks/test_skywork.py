import pytest

from aer_lightning.callbacks import SkyworkCoefficient
from aer_lightning.errors import ConfigError


def test_it_steps_by_delta_and_acts_one_rollout_late(stack):
    """By hand, target 0.3 nat, delta 0.1, largest 0.25: c moves after a rollout, and acts if that rollout ended at or below 0.3."""
    entropies = [0.5, 0.3, 0.2, 0.2, 0.4, 0.2, 0.2]
    callback = SkyworkCoefficient(target=0.3, delta=0.1, alpha_max=0.25)
    rows = stack.rollouts([callback], entropies)
    assert [row["aer/alpha"] for row in rows] == pytest.approx([0.0, 0.0, 0.1, 0.2, 0.25, 0.15, 0.25])
    assert [row["aer/applied"] for row in rows] == pytest.approx([0.0, 0.0, 0.1, 0.2, 0.25, 0.0, 0.25])
    assert [row["aer/at_limit"] for row in rows] == [-1, -1, 0, 0, 1, 0, 1]


def test_the_bonus_is_off_in_the_batch_where_it_does_not_act(stack, make_batch):
    callback = SkyworkCoefficient(target=0.3, alpha_init=0.2)
    first = stack.step([callback], make_batch(0.4))
    second = stack.step([callback], make_batch(0.2, index=1))
    third = stack.step([callback], make_batch(0.4, index=2))
    assert [float(b.entropy_coefficient.max()) for b in (first, second)] == [0.0, 0.0]
    assert float(third.entropy_coefficient.max()) == pytest.approx(0.2), "one step down, one up"


def test_it_needs_no_anchor_and_keeps_its_floor(stack):
    rows = stack.rollouts([SkyworkCoefficient(target=0.1, alpha_min=0.01, alpha_init=0.02, delta=0.005)], [1.0] * 5)
    assert [row["aer/alpha"] for row in rows] == pytest.approx([0.02, 0.015, 0.01, 0.01, 0.01])


def test_options_are_checked_when_built():
    with pytest.raises(ConfigError, match=r"^delta: "):
        SkyworkCoefficient(delta=-1.0)
