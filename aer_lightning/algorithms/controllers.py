"""The arithmetic of entropy control: targets, and rules that move a coefficient. No Lightning, no torch.

AER: arXiv 2510.10959. *Source*: the target is anchored at the initial entropy (tau about 0.4) and a global coefficient, updated all the
time, keeps the entropy near it. *Reading*: all three step rules (``pi``, ``proportional``, ``sign``); docs/control.md compares them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from aer_lightning.errors import ConfigError

SPEED_LIMIT = 4.0  # largest factor by which PIController.at_speed moves kp


def target_entropy(anchor: float, tau: float = 0.4, absolute: float | None = None) -> float:
    """H* in nat: tau * H_0, or ``absolute`` if given.

    Args:
        anchor: H_0, entropy per token of the initial policy, nat.
        tau: share of H_0 to hold, above 0 (0.4 is the paper's).
        absolute: target in nat that takes the place of tau * H_0; null for none.

    Raises:
        ConfigError: names ``tau`` or ``absolute``, or says that the initial policy has no entropy to hold a share of.
    """
    check_target(tau, absolute)
    if absolute is not None:
        return absolute
    if not (anchor > 0 and math.isfinite(anchor)):
        raise ConfigError(f"tau: the initial policy has an entropy of {anchor} nat, so a share of it is no target; set an absolute target")
    return tau * anchor


def check_target(tau: float, absolute: float | None = None) -> None:
    """Refuse a target that no entropy can have.

    Raises:
        ConfigError: names ``tau`` or ``absolute``.
    """
    if not 0 < tau < math.inf:
        raise ConfigError(f"tau: the target's share of the initial entropy must be above 0, got {tau}")
    if absolute is not None and not 0 < absolute < math.inf:
        raise ConfigError(f"absolute: the target entropy must be above 0 nat, or null for tau * H_0, got {absolute}")


@dataclass(frozen=True)
class ExponentialAverage:
    """mean <- decay * mean + (1 - decay) * value, starting at the first value; the state is the caller's.

    Args:
        decay: in [0, 1); 0 is no smoothing.
    """

    decay: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ConfigError(f"decay: the exponential average's memory must be at least 0 and below 1, got {self.decay}")

    def update(self, mean: float | None, value: float) -> float:
        """Return the new mean; ``mean`` is None before the first value."""
        return value if mean is None else self.decay * mean + (1 - self.decay) * value


@runtime_checkable
class Controller(Protocol):
    """Moves the global coefficient alpha once a rollout towards a target entropy. Stateless: alpha and what was seen are the caller's.

    Attributes:
        alpha_init: alpha of the first rollout.
        alpha_min: smallest alpha, at most 0.
        alpha_max: largest alpha.
    """

    @property
    def alpha_init(self) -> float:
        """See the class; a plain attribute will do, as for the next two."""
        ...

    @property
    def alpha_min(self) -> float:
        """See the class."""
        ...

    @property
    def alpha_max(self) -> float:
        """See the class."""
        ...

    def update(self, alpha: float, entropy: float, target: float, previous: float | None = None) -> float:
        """Return the next alpha.

        Args:
            alpha: that of the rollout that was measured, in [alpha_min, alpha_max].
            entropy: measured, nat.
            target: H*, nat.
            previous: the entropy that the last update was given, nat; None before there is one.

        Returns:
            alpha in [alpha_min, alpha_max].
        """
        ...


def _check_limits(alpha_min: float, alpha_max: float, alpha_init: float) -> None:
    if not 0 < alpha_max < math.inf:
        raise ConfigError(f"alpha_max: the largest coefficient must be above 0 and finite, got {alpha_max}")
    if not -math.inf < alpha_min <= 0:
        raise ConfigError(f"alpha_min: the smallest coefficient must be 0 or below (then it pulls the entropy down), got {alpha_min}")
    if not alpha_min <= alpha_init <= alpha_max:
        raise ConfigError(f"alpha_init: must be from alpha_min = {alpha_min} to alpha_max = {alpha_max}, got {alpha_init}")


def _check_positive(name: str, value: float, what: str) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(f"{name}: {what} must be above 0, got {value}")


def check_measured(entropy: float, target: float = 1.0) -> None:
    """Raise ValueError for a measurement or a target in nat that no rule can act on."""
    if not math.isfinite(entropy):
        raise ValueError(f"the measured entropy is {entropy}; no coefficient follows from it")
    if not 0 < target < math.inf:
        raise ValueError(f"the target entropy must be above 0 nat, got {target}")


@dataclass(frozen=True)
class PIController:
    """alpha <- clip(alpha + kp (e_k - e_{k-1}) + ki e_k, alpha_min, alpha_max), e = (H* - H) / H*. *Reading*.

    A proportional and integral controller in velocity form (Astrom and Hagglund, Advanced PID Control, ISA 2006): what it has
    summed up is alpha itself, so the clip is its anti-windup. Entropy answers to alpha as an integrator does (a constant alpha
    makes it rise or fall by so much a rollout), and an integral alone, which ``proportional`` is, drives an integrator in circles; the
    part in kp damps that. The error is relative and alpha weighs a mean over tokens, so neither gain has a unit of entropy or a size
    of batch in it; what they depend on (learning rate, steps per rollout) ``python -m aer_lightning tune-controller`` reads off a run.

    Example:
        H* = .2, kp = .3, ki = .03, alpha = .1; H falls from .22 to .18, so e goes from -.1 to .1:

        >>> round(PIController(kp=0.3, ki=0.03).update(0.1, 0.18, 0.2, previous=0.22), 6)  # .1 + .3 x .2 + .03 x .1
        0.163

    Args:
        kp: step of alpha per change of the relative error, above 0.
        ki: step of alpha per relative error and rollout, above 0.
        alpha_max: largest alpha, above 0.
        alpha_init: alpha of the first rollout.
        alpha_min: smallest alpha; below 0 a target is reached from above although the policy would stay there by itself.
    """

    kp: float = 0.4
    ki: float = 0.03
    alpha_max: float = 1.0
    alpha_init: float = 0.0
    alpha_min: float = 0.0

    def __post_init__(self) -> None:
        _check_positive("kp", self.kp, "the proportional gain")
        _check_positive("ki", self.ki, "the integral gain")
        _check_limits(self.alpha_min, self.alpha_max, self.alpha_init)

    def update(self, alpha: float, entropy: float, target: float, previous: float | None = None) -> float:
        """See ``Controller.update``; without ``previous`` the error counts as unchanged."""
        check_measured(entropy, target)
        change = 0.0 if previous is None else (previous - entropy) / target
        return min(max(alpha + self.kp * change + self.ki * (target - entropy) / target, self.alpha_min), self.alpha_max)

    def at_speed(self, speed: float) -> PIController:
        """The controller for a policy that moves ``speed`` times as fast as the one for which kp was found: kp / sqrt(speed).

        The answer b of the entropy grows with learning rate times steps about as speed does, and the damping of the loop is
        kp sqrt(b / ki) / 2: so it stays, with the same ki. The factor on kp is at most ``SPEED_LIMIT`` either way, because beyond that a
        proportion found elsewhere is no guide.

        Example:
            Three times the learning rate on the same number of steps:

            >>> round(PIController(kp=0.7, ki=0.03).at_speed(3.0).kp, 3)
            0.404

        Raises:
            ValueError: ``speed`` is not above 0.
        """
        if not speed > 0:
            raise ValueError(f"speed: must be above 0, got {speed}")
        return replace(self, kp=self.kp * min(max(speed**-0.5, 1 / SPEED_LIMIT), SPEED_LIMIT))


@dataclass(frozen=True)
class ProportionalController:
    """alpha <- clip(alpha + eta (H* - H) / H*, alpha_min, alpha_max). *Reading*.

    It is the step that is proportional, so alpha *integrates* the error: in the terms of control this is an I controller, ``PIController``
    without its damping, slow, and it swings around the target. The error is relative, so eta has no unit of entropy in it. It adds and
    never multiplies: from alpha = 0 it recovers.

    Args:
        eta: step at a relative error of 1, above 0.
        alpha_max: largest alpha, above 0.
        alpha_init: alpha of the first rollout.
        alpha_min: smallest alpha, at most 0.
    """

    eta: float = 0.05
    alpha_max: float = 1.0
    alpha_init: float = 0.0
    alpha_min: float = 0.0

    def __post_init__(self) -> None:
        _check_positive("eta", self.eta, "the step of the coefficient")
        _check_limits(self.alpha_min, self.alpha_max, self.alpha_init)

    def update(self, alpha: float, entropy: float, target: float, previous: float | None = None) -> float:
        """See ``Controller.update``."""
        check_measured(entropy, target)
        return min(max(alpha + self.eta * (target - entropy) / target, self.alpha_min), self.alpha_max)


@dataclass(frozen=True)
class SignController:
    """alpha <- clip(alpha + eta sign(H* - H), alpha_min, alpha_max). *Reading*. It ends in a limit cycle of width eta.

    Args:
        eta: size of every step, above 0.
        alpha_max: largest alpha, above 0.
        alpha_init: alpha of the first rollout.
        alpha_min: smallest alpha, at most 0.
    """

    eta: float = 0.005
    alpha_max: float = 1.0
    alpha_init: float = 0.0
    alpha_min: float = 0.0

    def __post_init__(self) -> None:
        _check_positive("eta", self.eta, "the step of the coefficient")
        _check_limits(self.alpha_min, self.alpha_max, self.alpha_init)

    def update(self, alpha: float, entropy: float, target: float, previous: float | None = None) -> float:
        """See ``Controller.update``."""
        check_measured(entropy, target)
        step = (target > entropy) - (target < entropy)
        return min(max(alpha + self.eta * step, self.alpha_min), self.alpha_max)


def _check_range(low: float, high: float, init: float, names: tuple[str, str, str]) -> None:
    if not 0 <= low < high < math.inf:
        raise ConfigError(f"{names[0]}: must be at least 0 and below {names[1]} = {high}, got {low}")
    if not low <= init <= high:
        raise ConfigError(f"{names[2]}: must be from {names[0]} = {low} to {names[1]} = {high}, got {init}")


@dataclass(frozen=True)
class SkyworkController:
    """Skywork-OR1's adaptive coefficient: c <- c + delta if H <= target else c - delta, in [alpha_min, alpha_max].

    The rollout then trained on uses c only if the entropy measured on the rollout before it is at most the target
    (``applied``), so the coefficient moves slowly and the bonus switches on and off. Its target is absolute.

    Source: Skywork-OR1 technical report, arXiv 2505.22312, adaptive entropy control.

    Args:
        target: entropy in nat at or below which the bonus is on and grows, above 0.
        delta: step of the coefficient, above 0.
        alpha_min: smallest coefficient, at least 0.
        alpha_max: largest coefficient.
        alpha_init: coefficient of the first rollout.
    """

    target: float = 0.2
    delta: float = 0.005
    alpha_min: float = 0.0
    alpha_max: float = 1.0
    alpha_init: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.target < math.inf:
            raise ConfigError(f"target: the target entropy must be above 0 nat, got {self.target}")
        if not 0 < self.delta < math.inf:
            raise ConfigError(f"delta: the step of the coefficient must be above 0, got {self.delta}")
        _check_range(self.alpha_min, self.alpha_max, self.alpha_init, ("alpha_min", "alpha_max", "alpha_init"))

    def update(self, alpha: float, entropy: float) -> float:
        """Return the next c, given the entropy of the rollout in nat."""
        check_measured(entropy)
        step = self.delta if entropy <= self.target else -self.delta
        return min(max(alpha + step, self.alpha_min), self.alpha_max)

    def applied(self, alpha: float, previous_entropy: float | None) -> float:
        """Return the coefficient that acts: c if the previous rollout's entropy is at most the target, else 0 (also before any)."""
        return alpha if previous_entropy is not None and previous_entropy <= self.target else 0.0


@dataclass(frozen=True)
class AEntController:
    """AEnt's dead band: alpha <- clip(alpha - lr (min(0, H - entropy_low) + max(0, H - entropy_high)), alpha_min, alpha_max).

    Within [entropy_low, entropy_high] alpha rests; outside it moves in proportion to the distance to the band. The entropy that
    the paper regularises and measures is that over the top part of the vocabulary, renormalised.

    Source: AEnt, arXiv 2509.03493.

    Args:
        entropy_low: lower end of the band in nat, at least 0.
        entropy_high: upper end of the band in nat, above entropy_low.
        lr: step per nat, above 0.
        alpha_min: smallest alpha, at least 0.
        alpha_max: largest alpha.
        alpha_init: alpha of the first rollout.
    """

    entropy_low: float = 0.1
    entropy_high: float = 0.3
    lr: float = 0.01
    alpha_min: float = 0.0
    alpha_max: float = 1.0
    alpha_init: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.entropy_low < self.entropy_high < math.inf:
            raise ConfigError(f"entropy_low: must be at least 0 nat and below entropy_high = {self.entropy_high}, got {self.entropy_low}")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr: the step of the coefficient must be above 0, got {self.lr}")
        _check_range(self.alpha_min, self.alpha_max, self.alpha_init, ("alpha_min", "alpha_max", "alpha_init"))

    def update(self, alpha: float, entropy: float) -> float:
        """Return the next alpha, given the entropy of the rollout in nat."""
        check_measured(entropy)
        error = min(0.0, entropy - self.entropy_low) + max(0.0, entropy - self.entropy_high)
        return min(max(alpha - self.lr * error, self.alpha_min), self.alpha_max)
