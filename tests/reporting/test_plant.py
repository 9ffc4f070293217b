"""Identification recovers what made the data; proposed gains do in a loop what they promise."""

import doctest

import numpy as np
import pytest

import aer_lightning.reporting.plant as plant
from aer_lightning.algorithms import ExponentialAverage, PIController
from aer_lightning.reporting.plant import Gains, Plant, gain_margin, identify, predicted_rms, propose


def simulate(gain, drift, wander, noise, alphas, seed=0, start=0.5):
    """H_k of the model under given coefficients."""
    random = np.random.default_rng(seed)
    x, entropy = np.log(start), []
    for alpha in alphas:
        entropy.append(np.exp(x + noise * random.standard_normal()))
        x += gain * alpha - drift + wander * random.standard_normal()
    return np.array(entropy)


def test_identification_is_exact_without_noise():
    alphas = np.repeat([0.05, -0.05, 0.1, 0.0], 10)
    found = identify(simulate(0.3, 0.02, 0, 0, alphas), alphas)
    assert found.gain == pytest.approx(0.3, rel=1e-6) and found.drift == pytest.approx(0.02, rel=1e-6)
    assert found.noise < 1e-6 and found.gain_error < 1e-6


@pytest.mark.parametrize("gain", [0.05, 0.3, 1.0])
def test_identification_covers_the_truth(gain):
    """Over 20 runs with the noise of the study: no bias, and an error that says how far off one run may be."""
    found = []
    for seed in range(20):
        alphas = np.repeat(np.random.default_rng(100 + seed).uniform(-0.1, 0.2, 15), 10)
        found.append(identify(simulate(gain, 0.02, 0.02, 0.06, alphas, seed), alphas))
    errors = np.array([(f.gain - gain) / f.gain_error for f in found])
    assert abs(errors.mean()) < 0.8 and (np.abs(errors) < 2.5).mean() >= 0.9
    assert np.median([f.noise for f in found]) == pytest.approx(0.06, rel=0.15)
    assert np.median([f.wander for f in found]) == pytest.approx(0.02, rel=0.4)


def test_identification_from_a_closed_loop():
    """The controller's own moves are enough: alpha answers to noise, and the entropy to alpha."""
    gains, average, found = Gains(0.4, 0.03, 0.5), ExponentialAverage(0.5), []
    for seed in range(10):
        random = np.random.default_rng(seed)
        controller, alpha, seen, x = PIController(gains.kp, gains.ki, alpha_min=-0.2), 0.07, None, np.log(0.5)
        entropies, alphas = [], []
        for _ in range(150):
            entropies.append(float(np.exp(x + 0.06 * random.standard_normal())))
            alphas.append(alpha)
            x += 0.3 * alpha - 0.02 + 0.02 * random.standard_normal()
            before, seen = seen, average.update(seen, entropies[-1])
            alpha = controller.update(alpha, seen, 0.5, before)
        found.append(identify(np.array(entropies), np.array(alphas)).gain)
    assert np.mean(found) == pytest.approx(0.3, rel=0.15)


def test_a_coefficient_that_never_moves_tells_nothing():
    found = identify(simulate(0.3, 0.02, 0.02, 0.06, [0.05] * 60), np.full(60, 0.05))
    assert found.gain_error == np.inf


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="20 rollouts"):
        identify(np.full(10, 0.5), np.zeros(10))
    with pytest.raises(ValueError, match="above 0"):
        identify(np.zeros(30), np.zeros(30))


def loop(gain, gains, start=1.0, rollouts=200):
    """Relative error over the rollouts of a loop without noise, from ``start`` times the target."""
    controller = PIController(gains.kp, gains.ki, alpha_max=1e6, alpha_min=-1e6)
    average, alpha, seen, x, errors = ExponentialAverage(gains.smoothing), 0.0, None, np.log(start), []
    for _ in range(rollouts):
        entropy = float(np.exp(min(x, 50.0)))
        errors.append(entropy - 1)
        x += gain * alpha
        before, seen = seen, average.update(seen, entropy)
        alpha = controller.update(alpha, seen, 1.0, before)
    return np.array(errors)


@pytest.mark.parametrize("gain", [0.01, 0.3, 5.0])
def test_proposed_gains_settle_a_step_as_fast_as_they_say_whatever_the_plant(gain):
    errors = loop(gain, propose(gain, 8.0), start=1.1)
    assert abs(errors[16]) < 0.5 * errors[0] and np.abs(errors[60:]).max() < 0.1 * errors[0]
    assert errors.min() > -0.4 * errors[0], "overshoot"
    slow = loop(gain, propose(gain, 24.0), start=1.1)
    assert slow[12] > errors[12]


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.8])
def test_gain_margin_is_where_the_loop_becomes_unstable(smoothing):
    gains = propose(0.3, 8.0, smoothing)
    margin = gain_margin(0.3, gains)
    assert gain_margin(0.6, gains) == pytest.approx(margin / 2, rel=1e-6)
    inside, outside = (np.abs(loop(0.3 * margin * f, gains, start=1.0001, rollouts=400)) for f in (0.9, 1.1))
    assert inside[-20:].max() < 1e-4 < outside[-20:].max()
    assert margin > 3.2, "a learning rate of 3.2 times the one identified stays stable"


def test_prediction_grows_with_noise_and_with_too_little_gain():
    model = Plant(0.3, 0.03, 0.02, 0.02, 0.06)
    here = predicted_rms(model, propose(0.3))
    assert 0.02 < here < 0.08
    assert predicted_rms(Plant(0.3, 0.03, 0.02, 0.04, 0.06), propose(0.3)) > 1.3 * here
    assert predicted_rms(model, propose(3.0)) > 1.5 * here
    assert predicted_rms(model, propose(0.3), factor=30.0) > 1.5 * here


def test_the_worked_example():
    assert doctest.testmod(plant).failed == 0


def test_a_simulated_run_comes_down_to_its_target():
    """From twice the target, without noise; with a lower limit of 0 it falls by c alone, and no faster."""
    model = Plant(0.3, 0.0, 0.01, 0.0, 1e-9)
    errors = plant.simulate(model, Gains(0.4, 0.03, 0.5), start=2.0, alpha=0.0, limits=(-0.2, 1.0), copies=1)[0]
    assert errors[0] == pytest.approx(1.0) and abs(errors[-1]) < 0.02 and errors.min() > -0.1
    slow = plant.simulate(model, Gains(0.4, 0.03, 0.5), start=2.0, alpha=0.0, limits=(0.0, 1.0), copies=1)[0]
    assert slow[20] == pytest.approx(2 * np.mean(np.exp(-0.01 * np.arange(11, 21))) - 1, rel=1e-6) and slow[20] > errors[20]
