"""AER, part one: the target entropy, anchored at that of the initial policy."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl

from aer_lightning.algorithms.controllers import check_target, target_entropy
from aer_lightning.callbacks.stack import EntropyCallback, read_batch, regularised_entropy
from aer_lightning.errors import ConfigError


class EntropyAnchor(EntropyCallback):
    """Measures H_0, the entropy of the first rollout before any update, and sets the target H* = tau H_0.

    H_0 is a fact of the run: it is saved in the checkpoint and never measured again. Source: arXiv 2510.10959 (initial-anchored
    target entropy, best around tau = 0.4).

    Args:
        tau: share of H_0 to hold, above 0.
        absolute: a target in nat that takes the place of tau H_0; null for none.
        measure: ``whole`` for H_k, or ``regularised`` for the part of it that the coefficient regularises (SIREN's self-anchor).

    Raises:
        ConfigError: tau or absolute is not positive, or measure is none of the names.
    """

    role = "anchor"

    def __init__(self, tau: float = 0.4, absolute: float | None = None, measure: Literal["whole", "regularised"] = "whole") -> None:
        check_target(tau, absolute)
        if measure not in ("whole", "regularised"):
            raise ConfigError(f"measure: must be whole or regularised, got {measure!r}")
        self.tau, self.absolute, self.measure = tau, absolute, measure
        self.anchor: float | None = None

    @property
    def target(self) -> float | None:
        """H* in nat, None before the first rollout."""
        return None if self.anchor is None else target_entropy(self.anchor, self.tau, self.absolute)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the target as soon as there is one."""
        read_batch(batch).target_entropy = self.target

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure once; log H_0, H* and H_k / H* once per rollout.

        The first rollout's H_k is the initial policy's whenever it is read: it is measured before that rollout's first update.
        """
        entropy = batch.info.entropy if self.measure == "whole" else regularised_entropy(batch)
        if self.anchor is None and (self.measure == "whole" or batch.last):
            self.anchor = entropy
        batch.target_entropy = self.target
        if batch.last:
            assert self.anchor is not None and self.target is not None
            values = {
                "aer/anchor_entropy": self.anchor,
                "aer/target_entropy": self.target,
                "aer/entropy_over_target": entropy / self.target,
            }
            pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """H_0."""
        return {"anchor": self.anchor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take H_0 back."""
        self.anchor = state_dict["anchor"]
