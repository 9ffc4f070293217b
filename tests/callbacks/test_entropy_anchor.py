import pytest

from aer_lightning.callbacks import EntropyAnchor
from aer_lightning.errors import ConfigError


def test_the_anchor_is_the_first_rollout_and_never_measured_again(stack, make_batch):
    callback = EntropyAnchor(tau=0.4)
    assert callback.target is None
    for part in range(3):
        batch = stack.step([callback], make_batch(0.5, first=part == 0, last=part == 2))
        assert batch.target_entropy == pytest.approx(0.2)
    later = stack.step([callback], make_batch(3.0, index=1))
    assert callback.anchor == 0.5 and later.target_entropy == pytest.approx(0.2)


def test_it_logs_once_per_rollout(stack, make_batch):
    callback = EntropyAnchor(tau=0.5)
    stack.step([callback], make_batch(0.4, last=False))
    assert not stack.logged
    stack.step([callback], make_batch(0.4, first=False))
    assert stack.logged == pytest.approx({"aer/anchor_entropy": 0.4, "aer/target_entropy": 0.2, "aer/entropy_over_target": 2.0})


def test_an_absolute_target_takes_the_place_of_the_share(stack):
    callback = EntropyAnchor(tau=0.4, absolute=0.25)
    (row,) = stack.rollouts([callback], [0.9])
    assert row["aer/target_entropy"] == 0.25 and row["aer/anchor_entropy"] == 0.9, "the anchor is still measured and shown"


def test_the_anchor_survives_a_resume_bit_for_bit(stack, make_batch):
    first = EntropyAnchor(tau=0.8)
    stack.step([first], make_batch(0.1 + 0.2))
    resumed = EntropyAnchor(tau=0.8)
    resumed.load_state_dict(first.state_dict())
    batch = stack.step([resumed], make_batch(0.05, index=9))
    assert resumed.anchor == 0.1 + 0.2 and batch.target_entropy == first.target


def test_a_new_tau_applies_to_the_old_anchor():
    resumed = EntropyAnchor(tau=0.5)
    resumed.load_state_dict({"anchor": 0.6})
    assert resumed.target == pytest.approx(0.3)


def test_options_are_checked_when_built():
    with pytest.raises(ConfigError, match=r"^tau: "):
        EntropyAnchor(tau=0.0)
    with pytest.raises(ConfigError, match=r"^absolute: "):
        EntropyAnchor(absolute=-0.1)


def test_a_policy_without_entropy_has_no_target(stack, make_batch):
    with pytest.raises(ConfigError, match="absolute"):
        stack.step([EntropyAnchor()], make_batch(0.0))
