"""The arithmetic of entropy control: difficulty weights, targets, and rules that move a coefficient. No Lightning, no torch.

AER: arXiv 2510.10959. That difficulty allots the coefficient, that the target is anchored at the initial entropy (tau about 0.4),
and that a global coefficient follows it, is the paper's; the shapes of the weight and the two step rules are our reading of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from aer_lightning.errors import ConfigError

WeightShape = Literal["hinge", "gate", "linear", "uniform"]


def check_difficulty(rho: float, shape: str) -> None:
    """Refuse a threshold or a shape that makes no sense.

    Raises:
        ConfigError: names ``rho`` or ``shape``.
    """
    if not 0 < rho <= 1:
        raise ConfigError(f"rho: the accuracy below which a prompt counts as difficult must be above 0 and at most 1, got {rho}")
    if shape not in get_args(WeightShape):
        raise ConfigError(f"shape: must be one of {', '.join(get_args(WeightShape))}, got {shape!r}")


def difficulty_weight(g: Any, rho: float = 0.5, shape: WeightShape = "hinge") -> Any:
    """w(g), the share of the global coefficient that a prompt of group accuracy g gets.

    ``hinge`` clip((rho - g) / rho, 0, 1) · ``gate`` 1 if g < rho else 0 · ``linear`` 1 - g · ``uniform`` 1. All are 1 at g = 0.

    Args:
        g: share of correct responses in [0, 1]: a float, or a floating-point tensor of any shape.
        rho: threshold of hinge and gate, in (0, 1].
        shape: one of the names.

    Returns:
        float, or a tensor like ``g``.
    """
    check_difficulty(rho, shape)
    if isinstance(g, int | float):
        if shape == "hinge":
            return min(max((rho - g) / rho, 0.0), 1.0)
        if shape == "gate":
            return 1.0 if g < rho else 0.0
        return 1.0 - g if shape == "linear" else 1.0
    if shape == "hinge":
        return ((rho - g) / rho).clip(0, 1)
    if shape == "gate":
        return (g < rho) + 0 * g
    return 1 - g if shape == "linear" else 1 + 0 * g


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
    """Moves the global coefficient alpha once a rollout towards a target entropy. Stateless: alpha is the caller's.

    Attributes:
        alpha_init: alpha of the first rollout.
        alpha_max: largest alpha.
    """

    @property
    def alpha_init(self) -> float:
        """See the class; a plain attribute will do, as for the next."""
        ...

    @property
    def alpha_max(self) -> float:
        """See the class."""
        ...

    def update(self, alpha: float, entropy: float, target: float) -> float:
        """Return the next alpha in [0, alpha_max], given the measured entropy and the target, both in nat."""
        ...


def _check_aer(eta: float, alpha_max: float, alpha_init: float) -> None:
    if not 0 < eta < math.inf:
        raise ConfigError(f"eta: the step of the coefficient must be above 0, got {eta}")
    if not 0 < alpha_max < math.inf:
        raise ConfigError(f"alpha_max: the largest coefficient must be above 0 and finite, got {alpha_max}")
    if not 0 <= alpha_init <= alpha_max:
        raise ConfigError(f"alpha_init: must be from 0 to alpha_max = {alpha_max}, got {alpha_init}")


def _check_measured(entropy: float, target: float = 1.0) -> None:
    if not math.isfinite(entropy):
        raise ValueError(f"the measured entropy is {entropy}; no coefficient follows from it")
    if not 0 < target < math.inf:
        raise ValueError(f"the target entropy must be above 0 nat, got {target}")


@dataclass(frozen=True)
class ProportionalController:
    """alpha <- clip(alpha + eta (H* - H) / H*, 0, alpha_max). AER's default, our reading of "dynamic adjustment".

    The error is relative, so eta has no unit of entropy in it. It adds and never multiplies: from alpha = 0 it recovers.

    Args:
        eta: step at a relative error of 1, above 0.
        alpha_max: largest alpha, above 0.
        alpha_init: alpha of the first rollout, in [0, alpha_max].
    """

    eta: float = 0.05
    alpha_max: float = 1.0
    alpha_init: float = 0.0

    def __post_init__(self) -> None:
        _check_aer(self.eta, self.alpha_max, self.alpha_init)

    def update(self, alpha: float, entropy: float, target: float) -> float:
        """See ``Controller.update``."""
        _check_measured(entropy, target)
        return min(max(alpha + self.eta * (target - entropy) / target, 0.0), self.alpha_max)


@dataclass(frozen=True)
class SignController:
    """alpha <- clip(alpha + eta sign(H* - H), 0, alpha_max). The other reading: it ends in a limit cycle of width eta.

    Args:
        eta: size of every step, above 0.
        alpha_max: largest alpha, above 0.
        alpha_init: alpha of the first rollout, in [0, alpha_max].
    """

    eta: float = 0.005
    alpha_max: float = 1.0
    alpha_init: float = 0.0

    def __post_init__(self) -> None:
        _check_aer(self.eta, self.alpha_max, self.alpha_init)

    def update(self, alpha: float, entropy: float, target: float) -> float:
        """See ``Controller.update``."""
        _check_measured(entropy, target)
        step = (target > entropy) - (target < entropy)
        return min(max(alpha + self.eta * step, 0.0), self.alpha_max)


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
        _check_measured(entropy)
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
        _check_measured(entropy)
        error = min(0.0, entropy - self.entropy_low) + max(0.0, entropy - self.entropy_high)
        return min(max(alpha - self.lr * error, self.alpha_min), self.alpha_max)
