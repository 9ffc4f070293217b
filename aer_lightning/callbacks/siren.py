"""SIREN's masked and self-anchored regularisation as a coefficient."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from aer_lightning.algorithms.objectives import EntropyScope
from aer_lightning.algorithms.self_anchored import SelfAnchoredController
from aer_lightning.callbacks.coefficient import CoefficientCallback
from aer_lightning.callbacks.stack import regularised_entropy
from aer_lightning.rollout import RolloutBatch


class SIRENCoefficient(CoefficientCallback):
    """Pulls the entropy of the tokens and the part of the vocabulary that matter back to its own initial value, from both sides.

    Regularised is the entropy over the nucleus of ``top_p``, renormalised, at the tokens above the ``quantile`` of their response; the
    coefficient is proportional to its distance from the anchor, see ``SelfAnchoredController``. Source: SIREN, arXiv 2509.25133 (Dr. GRPO
    with c 0.005, p and q 0.8 in its code). Put ``EntropyAnchor(tau=1.0, measure="regularised")`` before it.

    Args:
        coefficient: c, above 0.
        top_p: probability that the nucleus holds, in (0, 1].
        quantile: share of a response's tokens, those of lowest entropy, without regularisation, in [0, 1).

    Raises:
        ConfigError: an option is out of range.
    """

    needs_anchor = True
    follows_entropy = True

    def __init__(self, coefficient: float = 0.005, top_p: float = 0.8, quantile: float = 0.8) -> None:
        super().__init__()
        self.controller = SelfAnchoredController(coefficient, quantile)
        self.scope = EntropyScope(top_p=top_p, quantile=quantile)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the coefficient, and what it is about."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        batch.scalars |= self.scope.scalars()

    def advance(self, batch: RolloutBatch) -> None:
        """The coefficient of the next rollout, from this one's distance to the anchor."""
        assert batch.target_entropy is not None, "EntropyAnchor writes the target before this callback runs"
        self.alpha = self.controller.update(regularised_entropy(batch), batch.target_entropy)
