"""Tracking figures of fabricated runs, by hand."""

import doctest
import math

import numpy as np
import pytest

import aer_lightning.reporting.tracking as tracking
from aer_lightning.errors import DataError
from aer_lightning.reporting.run_metrics import RunMetrics
from aer_lightning.reporting.tracking import moving_mean, track


def run(entropy, target=0.5, limit=None):
    entropy = np.asarray(entropy, float)
    count = len(entropy)
    columns = {"rollout/entropy": entropy, "aer/target_entropy": np.full(count, target), "aer/alpha": np.linspace(0, 1, count)}
    columns["aer/at_limit"] = np.zeros(count) if limit is None else np.asarray(limit, float)
    return RunMetrics(np.arange(count, dtype=float), columns)


def test_a_run_at_its_target():
    found = track(run([0.5] * 40))
    assert (found.rms, found.entry, found.swing, found.at_limit) == (0, 0, 0, 0)
    assert found.alpha == pytest.approx(np.linspace(0, 1, 40)[20:].mean())


def test_a_constant_offset_is_the_rms_and_the_swing():
    found = track(run([0.55] * 40))
    assert found.rms == pytest.approx(0.1) and found.swing == pytest.approx(0.1)


def test_noise_of_single_rollouts_is_averaged_out():
    """Alternating by 20 % around the target is no error of the mean of ten."""
    found = track(run([0.6, 0.4] * 50))
    assert found.rms == pytest.approx(0, abs=1e-12) and found.entry == 1


def test_entry_and_swing_count_from_the_first_mean_within_the_band():
    # The mean of ten goes down by .1 x .5 a rollout once the entropy has stepped from 1 to .5: 1.15 H* is passed when 9 of 10 are low.
    found = track(run([1.0] * 10 + [0.5] * 20 + [0.65] * 30))
    assert found.entry == 18 and found.swing == pytest.approx(0.3)
    ramp = [0.03 * k for k in range(1, 11)] + [0.3] * 20
    assert found.rms == pytest.approx(np.sqrt(np.mean(np.square(ramp))))
    never = track(run([1.0] * 30))
    assert math.isnan(never.entry) and math.isnan(never.swing) and never.rms == pytest.approx(1.0)


def test_limits_count_in_the_last_half_on_both_sides():
    assert track(run([0.5] * 8, limit=[1, 1, 1, 1, 1, -1, 0, 0])).at_limit == 0.5


def test_a_run_without_a_target_is_refused():
    with pytest.raises(DataError, match="EntropyAnchor"):
        track(run([0.5] * 10, target=math.nan))


def test_moving_mean_against_a_loop():
    values = np.random.default_rng(0).random(30)
    assert moving_mean(values) == pytest.approx([values[max(0, k - 9) : k + 1].mean() for k in range(30)])
    assert doctest.testmod(tracking).failed == 0
