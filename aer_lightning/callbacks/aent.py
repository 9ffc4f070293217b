"""AEnt's dead-band coefficient, a baseline."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from aer_lightning.algorithms.controllers import AEntController
from aer_lightning.algorithms.objectives import EntropyScope
from aer_lightning.callbacks.coefficient import CoefficientCallback
from aer_lightning.callbacks.stack import regularised_entropy
from aer_lightning.errors import ConfigError
from aer_lightning.rollout import RolloutBatch


class AEntCoefficient(CoefficientCallback):
    """A coefficient that rests while the entropy is inside a band and moves in proportion to the distance outside.

    Differs from ``GlobalCoefficient``: a band in nat instead of an anchored target, and the clamped entropy: that over the most probable
    part of the vocabulary, renormalised, is what is regularised and what the band is about. Source: AEnt, arXiv 2509.03493; its recipe
    in AReaL (entropy_clamp 0.4).

    Args:
        entropy_low: lower end of the band, nat.
        entropy_high: upper end of the band, nat.
        lr: step per nat.
        alpha_min: smallest alpha.
        alpha_max: largest alpha.
        alpha_init: alpha of the first rollout.
        clamp: share of the vocabulary, its least probable tokens, that is left out of the entropy, in [0, 1); 0 regularises the whole.
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
        clamp: float = 0.4,
    ) -> None:
        super().__init__()
        if not 0 <= clamp < 1:
            raise ConfigError(f"clamp: the share of the vocabulary that is left out must be at least 0 and below 1, got {clamp}")
        self.scope = EntropyScope(top_share=1 - clamp if clamp else None)
        self.controller = AEntController(entropy_low, entropy_high, lr, alpha_min, alpha_max, alpha_init)
        self.alpha = alpha_init

    def limits(self) -> tuple[float, float]:
        """alpha_min and alpha_max."""
        return self.controller.alpha_min, self.controller.alpha_max

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the coefficient, and which part of the vocabulary it is about."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        batch.scalars |= self.scope.scalars()

    def advance(self, batch: RolloutBatch) -> None:
        """Move if the clamped entropy left the band."""
        self.alpha = self.controller.update(self.alpha, regularised_entropy(batch))
