"""AEnt's dead-band coefficient, a baseline."""

from __future__ import annotations

from aer_lightning.algorithms.controllers import AEntController
from aer_lightning.callbacks.coefficient import CoefficientCallback
from aer_lightning.rollout import RolloutBatch


class AEntCoefficient(CoefficientCallback):
    """A coefficient that rests while the entropy is inside a band and moves in proportion to the distance outside.

    Differs from ``GlobalCoefficient``: a band in nat instead of an anchored target. The paper regularises and measures the entropy
    over the top part of the vocabulary; here it is the whole vocabulary's. Source: AEnt, arXiv 2509.03493.

    Args:
        entropy_low: lower end of the band, nat.
        entropy_high: upper end of the band, nat.
        lr: step per nat.
        alpha_min: smallest alpha.
        alpha_max: largest alpha.
        alpha_init: alpha of the first rollout.
    """

    follows_entropy = True

    def __init__(
        self,
        entropy_low: float = 0.1,
        entropy_high: float = 0.3,
        lr: float = 0.01,
        alpha_min: float = 0.0,
        alpha_max: float = 1.0,
        alpha_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.controller = AEntController(entropy_low, entropy_high, lr, alpha_min, alpha_max, alpha_init)
        self.alpha = alpha_init

    def limits(self) -> tuple[float, float]:
        """alpha_min and alpha_max."""
        return self.controller.alpha_min, self.controller.alpha_max

    def advance(self, batch: RolloutBatch) -> None:
        """Move if the entropy left the band."""
        self.alpha = self.controller.update(self.alpha, batch.info.entropy)
