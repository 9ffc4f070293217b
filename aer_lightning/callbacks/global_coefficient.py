"""AER, part two: one global coefficient that holds the policy's entropy near the target."""

from __future__ import annotations

from typing import Any, Literal

from aer_lightning.algorithms.controllers import Controller, ExponentialAverage, ProportionalController, SignController
from aer_lightning.callbacks.coefficient import CoefficientCallback
from aer_lightning.errors import ConfigError
from aer_lightning.rollout import RolloutBatch


class GlobalCoefficient(CoefficientCallback):
    """Owns alpha and moves it once per rollout, after its last optimizer step, from the rollout's entropy H_k.

    That a global factor keeps the entropy near the target is the paper's (arXiv 2510.10959); the step rule is our reading.

    Args:
        controller: ``proportional`` alpha <- clip(alpha + eta (H* - H_k) / H*, 0, alpha_max), or ``sign`` with sign(H* - H_k).
        eta: step: per unit of relative error (proportional) or as it is (sign), above 0.
        alpha_max: largest alpha, above 0.
        alpha_init: alpha of the first rollout.
        smoothing: memory in [0, 1) of an exponential average of H_k that the controller sees; 0 is H_k itself.

    Raises:
        ConfigError: an option is out of range.
    """

    needs_anchor = True

    def __init__(
        self,
        controller: Literal["proportional", "sign"] = "proportional",
        eta: float = 0.05,
        alpha_max: float = 1.0,
        alpha_init: float = 0.0,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        kinds: dict[str, type[ProportionalController] | type[SignController]] = {
            "proportional": ProportionalController,
            "sign": SignController,
        }
        if controller not in kinds:
            raise ConfigError(f"controller: must be one of {', '.join(kinds)}, got {controller!r}")
        self.controller: Controller = kinds[controller](eta=eta, alpha_max=alpha_max, alpha_init=alpha_init)
        self.average = ExponentialAverage(smoothing)
        self.seen: float | None = None
        self.alpha = alpha_init

    def limits(self) -> tuple[float, float]:
        """0 and alpha_max."""
        return 0.0, self.controller.alpha_max

    def advance(self, batch: RolloutBatch) -> None:
        """One controller update. From alpha = 0 it recovers as soon as the entropy is below the target."""
        assert batch.target_entropy is not None, "EntropyAnchor writes the target before this callback runs"
        self.seen = self.average.update(self.seen, batch.info.entropy)
        self.alpha = self.controller.update(self.alpha, self.seen, batch.target_entropy)

    def state_dict(self) -> dict[str, Any]:
        """Alpha and what the smoothing has seen."""
        return super().state_dict() | {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state back."""
        super().load_state_dict(state_dict)
        self.seen = state_dict["seen"]
