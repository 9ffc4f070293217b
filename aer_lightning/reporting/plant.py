"""How the entropy answers to the coefficient, identified from a run's log, and gains of ``pi`` that follow from it.

The model, in words: the logarithm of the entropy is an integrator. Every rollout it rises by b times the mean coefficient that acted,
falls by c, wanders by w, and is measured with an error v::

    x_{k+1} = x_k + b u_k - c + w_k        log H_k = x_k + v_k        w ~ N(0, q^2), v ~ N(0, r^2)

u is ``aer/mean_coefficient``: alpha times the mean difficulty weight, so the share of tokens under regularisation is in it. Near the target
the relative error (H* - H) / H* is -(x - log H*), which is what makes gains of the relative error independent of the entropy's size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aer_lightning.reporting.run_metrics import Series
from aer_lightning.reporting.tracking import moving_mean

DAMPING = 0.7071  # of the closed loop: overshoots a step by 4 %
RATIOS = np.logspace(-3, 1, 41)  # q^2 / r^2 tried


@dataclass(frozen=True)
class Plant:
    """An identified model.

    Attributes:
        gain: b, change of log H per rollout and unit of mean coefficient.
        gain_error: its standard error.
        drift: c, loss of log H per rollout without regularisation.
        wander: q, standard deviation of log H's own changes per rollout.
        noise: r, standard deviation of the measurement, relative.
    """

    gain: float
    gain_error: float
    drift: float
    wander: float
    noise: float


@dataclass(frozen=True)
class Gains:
    """What ``GlobalCoefficient`` takes.

    Attributes:
        kp: step of alpha per change of the relative error.
        ki: step of alpha per relative error and rollout.
        smoothing: memory of the exponential average of H_k.
    """

    kp: float
    ki: float
    smoothing: float


def identify(entropy: Series, coefficient: Series) -> Plant:
    """Maximum likelihood estimate of the model by a Kalman filter's innovations.

    Data from a closed loop will do, because u_k is decided before H_{k+1} is measured. For a given ratio of variances the innovations are
    linear in b and c, so these follow by least squares, and the ratio is searched on a grid.

    Args:
        entropy: [R] H_k in nat, above 0.
        coefficient: [R] mean coefficient that acted in rollout k.

    Raises:
        ValueError: fewer than 20 rollouts, or an entropy that has no logarithm.
    """
    if len(entropy) < 20 or not (entropy > 0).all():
        raise ValueError("identification needs 20 rollouts or more, all with an entropy above 0")
    y = np.log(entropy)
    best: tuple[float, Plant] | None = None
    for ratio in RATIOS:
        rows, variances = _innovations(y, coefficient, ratio)
        weights = 1 / np.sqrt(variances)
        target, design = rows[:, 0] * weights, -rows[:, 1:] * weights[:, None]
        solution, *_ = np.linalg.lstsq(design, target, rcond=None)
        variance = float(np.mean((target - design @ solution) ** 2))
        cost = len(y) * np.log(max(variance, 1e-300)) + float(np.log(variances).sum())
        if best is None or cost < best[0]:
            covariance = np.linalg.pinv(design.T @ design) * variance
            noise = float(np.sqrt(variance))
            # Without any change of u its column is that of the drift, and b is anything.
            error = float(np.sqrt(covariance[0, 0])) if np.ptp(coefficient) > 1e-9 else float("inf")
            best = cost, Plant(float(solution[0]), error, float(-solution[1]), float(np.sqrt(ratio)) * noise, noise)
    assert best is not None
    return best[1]


def _innovations(y: Series, u: Series, ratio: float) -> tuple[Series, Series]:
    """[R - 1, 3] innovations of y and of the two regressors (input, time), and [R - 1] their variances in units of r^2."""
    state, variance = np.array([y[0], 0.0, 0.0]), 1.0
    rows, variances = np.empty((len(y) - 1, 3)), np.empty(len(y) - 1)
    for k in range(1, len(y)):
        state = state + np.array([0.0, u[k - 1], 1.0])
        variance += ratio
        rows[k - 1] = np.array([y[k], 0.0, 0.0]) - state
        variances[k - 1] = variance + 1
        gain = variance / (variance + 1)
        state = state + gain * rows[k - 1]
        variance *= 1 - gain
    return rows, variances


def propose(gain: float, time_constant: float = 8.0, smoothing: float = 0.5) -> Gains:
    """Gains that make the closed loop a second-order one of damping .71.

    Without smoothing and delay the loop is s^2 + b kp s + b ki: kp = 1 / (T b) and ki = kp / (4 d^2 T) give it the damping d, and
    T rollouts as its time constant.

    Example:
        b = .3 (the study's setting), T = 8:

        >>> gains = propose(0.3)
        >>> round(gains.kp, 3), round(gains.ki, 3)
        (0.417, 0.026)

    Args:
        gain: b, above 0.
        time_constant: T, rollouts in which an error falls to a third.
        smoothing: memory of the average of H_k.
    """
    kp = 1 / (time_constant * gain)
    return Gains(kp, kp / (4 * DAMPING**2 * time_constant), smoothing)


def gain_margin(gain: float, gains: Gains) -> float:
    """By what factor b may grow before the loop around the target is unstable; below 1 it is unstable as it is.

    The loop has a delay of one rollout beside the integrator: alpha of rollout k + 1 is decided by H_k.
    """
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if _stable(middle * gain, gains) else (low, middle)
    return low


def _stable(gain: float, gains: Gains) -> bool:
    beta = gains.smoothing
    loop = np.poly1d([1, -1]) ** 2 * np.poly1d([1, -beta])
    acting = gain * (1 - beta) * np.poly1d([gains.kp + gains.ki, -gains.kp])
    return bool(np.abs((loop + acting).roots).max() < 1)


def simulate(
    plant: Plant,
    gains: Gains,
    *,
    start: float = 1.0,
    alpha: float | None = None,
    limits: tuple[float, float] = (-math.inf, math.inf),
    rollouts: int = 150,
    copies: int = 400,
    seed: int = 0,
) -> Series:
    """[copies, rollouts] (mean of ten H) / H* - 1 of simulated runs.

    Args:
        plant: the model.
        gains: of the controller.
        start: H / H* before the first rollout, 1 / tau for a run that begins at its anchor.
        alpha: of the first rollout; None is the one that holds the entropy.
        limits: alpha_min and alpha_max.
        rollouts: length.
        copies: runs simulated.
        seed: of the noise.
    """
    random = np.random.default_rng(seed)
    x, acting = np.full(copies, math.log(start)), np.full(copies, plant.drift / plant.gain if alpha is None else alpha)
    seen: Series | None = None
    measured = np.empty((rollouts, copies))
    for k in range(rollouts):
        measured[k] = np.exp(x + plant.noise * random.standard_normal(copies))
        before, seen = seen, measured[k] if seen is None else gains.smoothing * seen + (1 - gains.smoothing) * measured[k]
        x = np.clip(x + plant.gain * acting - plant.drift + plant.wander * random.standard_normal(copies), -10, 10)
        acting = np.clip(acting + gains.kp * ((before if before is not None else seen) - seen) + gains.ki * (1 - seen), *limits)
    return np.stack([moving_mean(run) for run in measured.T]) - 1


def predicted_rms(plant: Plant, gains: Gains, *, factor: float = 1.0, rollouts: int = 150, copies: int = 400, seed: int = 0) -> float:
    """Root mean square of (mean of ten H) / H* - 1 of the loop at its target, over the last half, by simulation.

    Args:
        plant: the model.
        gains: of the controller.
        factor: of b, c and q^2, as another learning rate has it.
        rollouts: length; the last half is judged, as ``tracking.track`` does.
        copies: runs simulated.
        seed: of the noise.
    """
    moved = Plant(plant.gain * factor, 0.0, plant.drift * factor, plant.wander * factor**0.5, plant.noise)
    error = simulate(moved, gains, rollouts=rollouts, copies=copies, seed=seed)
    return float(np.sqrt(np.mean(error[:, rollouts // 2 :] ** 2)))
