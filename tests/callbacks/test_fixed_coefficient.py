import math

import pytest

from aer_lightning.callbacks import FixedCoefficient
from aer_lightning.errors import ConfigError


def test_it_never_moves(stack):
    callback = FixedCoefficient(0.02)
    rows = stack.rollouts([callback], [2.0, 0.5, 0.0001])
    assert [row["aer/alpha"] for row in rows] == [0.02] * 3
    assert all("aer/at_limit" not in row for row in rows), "a constant has no limits"
    assert all(row["aer/active_tokens"] == 1.0 for row in rows)


def test_zero_is_no_entropy_term(stack, make_batch):
    batch = stack.step([FixedCoefficient()], make_batch())
    assert (batch.entropy_coefficient == 0).all() and stack.logged["aer/active_tokens"] == 0.0


def test_a_resumed_run_takes_the_configured_coefficient(stack):
    before = FixedCoefficient(0.02)
    stack.rollouts([before], [0.4] * 3)
    after = FixedCoefficient(0.05)
    after.load_state_dict(before.state_dict())
    assert after.alpha == 0.05 and after.rollouts == 3


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_impossible_coefficients_are_refused(value):
    with pytest.raises(ConfigError, match=r"^coefficient: "):
        FixedCoefficient(value)
