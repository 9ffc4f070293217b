"""Skywork-OR1's adaptive coefficient, a baseline."""

from __future__ import annotations

from typing import Any

from aer_lightning.algorithms.controllers import SkyworkController
from aer_lightning.callbacks.coefficient import CoefficientCallback
from aer_lightning.rollout import RolloutBatch


class SkyworkCoefficient(CoefficientCallback):
    """A coefficient with an absolute target that grows or shrinks by a constant and acts only below the target.

    Differs from ``GlobalCoefficient``: the target is in nat and not anchored, steps do not depend on the error, and the bonus is
    on only if the rollout before ended at or below the target. Source: Skywork-OR1, arXiv 2505.22312.

    Args:
        target: entropy in nat.
        delta: step of the coefficient.
        alpha_min: smallest coefficient.
        alpha_max: largest coefficient.
        alpha_init: coefficient of the first rollout.
    """

    follows_entropy = True

    def __init__(
        self, target: float = 0.2, delta: float = 0.005, alpha_min: float = 0.0, alpha_max: float = 1.0, alpha_init: float = 0.0
    ) -> None:
        super().__init__()
        self.controller = SkyworkController(target, delta, alpha_min, alpha_max, alpha_init)
        self.alpha = alpha_init
        self.previous: float | None = None

    def applied(self) -> float:
        """The coefficient if the previous rollout's entropy is at most the target, else 0."""
        return self.controller.applied(self.alpha, self.previous)

    def limits(self) -> tuple[float, float]:
        """alpha_min and alpha_max."""
        return self.controller.alpha_min, self.controller.alpha_max

    def advance(self, batch: RolloutBatch) -> None:
        """One step up or down."""
        self.alpha = self.controller.update(self.alpha, batch.info.entropy)
        self.previous = batch.info.entropy

    def state_dict(self) -> dict[str, Any]:
        """Alpha and the previous entropy."""
        return super().state_dict() | {"previous": self.previous}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state back."""
        super().load_state_dict(state_dict)
        self.previous = state_dict["previous"]
