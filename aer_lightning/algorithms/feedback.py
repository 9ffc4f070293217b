"""Rules that move one number of the policy loss once a rollout, so that the entropy follows a target: AER's rivals. No Lightning, no torch.

Each is given the entropy measured in a rollout and the target, and says what acts in the next one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from aer_lightning.algorithms.controllers import check_measured
from aer_lightning.errors import ConfigError


class FeedbackState(NamedTuple):
    """What a rule remembers; plain numbers, saved by the caller.

    Attributes:
        value: the number that acts.
        memory: what else the rule carries, such as a sum of errors; 0 if nothing.
    """

    value: float
    memory: float = 0.0


@runtime_checkable
class FeedbackRule(Protocol):
    """Moves a number once a rollout. Stateless: the state is the caller's."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value."""
        ...

    def start(self) -> FeedbackState:
        """The state of the first rollout."""
        ...

    def update(self, state: FeedbackState, entropy: float, target: float) -> FeedbackState:
        """Return the next state, given the measured entropy and the target, both in nat."""
        ...


@dataclass(frozen=True)
class ZetaRule:
    """REPO-R: zeta doubles while the entropy is below its target and halves above; at the smallest size it changes its sign.

    Below 0 zeta works the other way round, so there the entropy above the target doubles its size.

    Source: REPO, arXiv 2603.11682, App. D.2 (size of zeta within [1e-4, 0.05], the target is the initial entropy); SkyRL's pull request
    1896, whose start is 0.001.

    Args:
        init: zeta of the first rollout, of a size within the bounds.
        smallest: size at which the sign changes, above 0.
        largest: largest size.
    """

    init: float = 1e-3
    smallest: float = 1e-4
    largest: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.smallest < self.largest < math.inf:
            raise ConfigError(f"smallest: must be above 0 and below largest = {self.largest}, got {self.smallest}")
        if not self.smallest <= abs(self.init) <= self.largest:
            raise ConfigError(f"init: its size must be from smallest = {self.smallest} to largest = {self.largest}, got {self.init}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Plus and minus ``largest``."""
        return -self.largest, self.largest

    def start(self) -> FeedbackState:
        """``init``."""
        return FeedbackState(self.init)

    def update(self, state: FeedbackState, entropy: float, target: float) -> FeedbackState:
        """See ``FeedbackRule.update``."""
        check_measured(entropy, target)
        if entropy == target:
            return state
        wanted = 1.0 if entropy < target else -1.0
        size = wanted * state.value  # above 0 where zeta already pushes the way that is wanted
        size = min(2 * size, self.largest) if size > 0 else size / 2
        return FeedbackState(wanted * (self.smallest if -self.smallest < size <= 0 else size))


@dataclass(frozen=True)
class ClipHighRule:
    """ADAPO: the upper clip distance grows by a factor while the entropy is below its target and shrinks by it above.

    *Source* (arXiv 2603.11682): the feedback of REPO on the upper clip bound, in both directions, towards the initial entropy. *Reading*
    (the paper's own schedule could not be read): the factor 2 of REPO's zeta and the bounds; DAPO's 0.28 as the start.

    Args:
        init: distance of the first rollout.
        factor: of a step, above 1.
        smallest: smallest distance, above 0.
        largest: largest distance.
    """

    init: float = 0.28
    factor: float = 2.0
    smallest: float = 0.05
    largest: float = 1.0

    def __post_init__(self) -> None:
        if not 1 < self.factor < math.inf:
            raise ConfigError(f"factor: of a step must be above 1, got {self.factor}")
        if not 0 < self.smallest < self.largest < math.inf:
            raise ConfigError(f"smallest: must be above 0 and below largest = {self.largest}, got {self.smallest}")
        if not self.smallest <= self.init <= self.largest:
            raise ConfigError(f"init: must be from smallest = {self.smallest} to largest = {self.largest}, got {self.init}")

    @property
    def bounds(self) -> tuple[float, float]:
        """``smallest`` and ``largest``."""
        return self.smallest, self.largest

    def start(self) -> FeedbackState:
        """``init``."""
        return FeedbackState(self.init)

    def update(self, state: FeedbackState, entropy: float, target: float) -> FeedbackState:
        """See ``FeedbackRule.update``."""
        check_measured(entropy, target)
        exponent = (entropy < target) - (entropy > target)
        return FeedbackState(min(max(state.value * self.factor**exponent, self.smallest), self.largest))


@dataclass(frozen=True)
class GateRule:
    """STARE: a weight that acts while the entropy is below the target, else 1; with ``step`` the weight itself follows the entropy.

    W <- clip(W + step sgn(H* - H), 1, largest).

    Source: STARE, arXiv 2606.19236, sections 4.3 (gate) and 4.4 (step; 0, the source's default, keeps W). Its target is absolute,
    0.3 nat for a 7B model.

    Args:
        weight: W, at least 1; the source's is 1.1.
        step: of W, at least 0.
        largest: largest W.
    """

    weight: float = 1.1
    step: float = 0.0
    largest: float = 1.5

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= self.largest < math.inf:
            raise ConfigError(f"weight: must be from 1 to largest = {self.largest}, got {self.weight}")
        if not 0 <= self.step < math.inf:
            raise ConfigError(f"step: must be at least 0, got {self.step}")

    @property
    def bounds(self) -> tuple[float, float]:
        """1 and ``largest``."""
        return 1.0, self.largest

    def start(self) -> FeedbackState:
        """Closed: no entropy is measured yet; the memory is W."""
        return FeedbackState(1.0, self.weight)

    def update(self, state: FeedbackState, entropy: float, target: float) -> FeedbackState:
        """See ``FeedbackRule.update``."""
        check_measured(entropy, target)
        sign = (entropy < target) - (entropy > target)
        weight = min(max(state.memory + self.step * sign, 1.0), self.largest)
        return FeedbackState(weight if entropy < target else 1.0, weight)


@dataclass(frozen=True)
class SureWeightRule:
    """EntroPIC: alpha = clip(kp e + ki (sum of the earlier e), -limit, limit) with e = H - H* in nat.

    Above the target it is positive and sharpens the tokens that the policy is sure of; below, negative.

    Source: EntroPIC, arXiv 2511.15248, and its repository yk7333/EntroPIC (kp 1, ki 0.01, limit 1, target 0.1 nat for Qwen3-8B). The
    sum has no anti-windup, as there.

    Args:
        kp: gain per nat, at least 0.
        ki: gain per nat and rollout, at least 0; kp and ki are not both 0.
        limit: largest size of alpha, in (0, 1].
    """

    kp: float = 1.0
    ki: float = 0.01
    limit: float = 1.0

    def __post_init__(self) -> None:
        for name in ("kp", "ki"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: the gain must be at least 0 and finite, got {getattr(self, name)}")
        if not self.kp + self.ki > 0:
            raise ConfigError("kp: with ki 0 as well nothing moves alpha; give one of them above 0")
        if not 0 < self.limit <= 1:
            raise ConfigError(f"limit: must be above 0 and at most 1, so that no token's weight turns negative, got {self.limit}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Plus and minus ``limit``."""
        return -self.limit, self.limit

    def start(self) -> FeedbackState:
        """0; the memory is the sum of errors, nat."""
        return FeedbackState(0.0)

    def update(self, state: FeedbackState, entropy: float, target: float) -> FeedbackState:
        """See ``FeedbackRule.update``."""
        check_measured(entropy, target)
        error = entropy - target
        value = self.kp * error + self.ki * state.memory
        return FeedbackState(min(max(value, -self.limit), self.limit), state.memory + error)


@dataclass(frozen=True)
class PositiveWeightRule:
    """Positive-Advantage Reweighting, entropy-guided: lambda <- clip(lambda - step, 0, 1) if H < H*, else clip(lambda + step, 0, 1).

    Source: arXiv 2511.05993, section 7.3 (step 0.05, start 0, target 0.2 nat).

    Args:
        init: lambda of the first rollout, in [0, 1].
        step: above 0.
    """

    init: float = 0.0
    step: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.init <= 1:
            raise ConfigError(f"init: must be from 0 to 1, got {self.init}")
        if not 0 < self.step < math.inf:
            raise ConfigError(f"step: must be above 0, got {self.step}")

    @property
    def bounds(self) -> tuple[float, float]:
        """0 and 1."""
        return 0.0, 1.0

    def start(self) -> FeedbackState:
        """``init``."""
        return FeedbackState(self.init)

    def update(self, state: FeedbackState, entropy: float, target: float) -> FeedbackState:
        """See ``FeedbackRule.update``."""
        check_measured(entropy, target)
        return FeedbackState(min(max(state.value + (-self.step if entropy < target else self.step), 0.0), 1.0))
