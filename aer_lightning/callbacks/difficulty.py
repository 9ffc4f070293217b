"""AER, part three: hard prompts get more of the coefficient than easy ones."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from aer_lightning.algorithms.controllers import WeightShape, check_difficulty, difficulty_weight
from aer_lightning.callbacks.stack import EntropyCallback, read_batch


class DifficultyCoefficient(EntropyCallback):
    """Multiplies each sequence's coefficient by w(g(q)), g the share of the prompt's group that is correct.

    A group without a right answer has advantage 0 and the largest weight: entropy alone moves it. That coefficients follow
    difficulty with a threshold rho is the paper's (arXiv 2510.10959); the shapes are our reading.

    Args:
        rho: accuracy below which a prompt counts as difficult, in (0, 1].
        shape: ``hinge`` clip((rho - g) / rho, 0, 1), ``gate`` 1 if g < rho else 0, ``linear`` 1 - g, ``uniform`` 1.

    Raises:
        ConfigError: rho or shape is out of range.
    """

    role = "weight"

    def __init__(self, rho: float = 0.5, shape: WeightShape = "hinge") -> None:
        check_difficulty(rho, shape)
        self.rho, self.shape = rho, shape

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Weight the coefficient that the callback before has written."""
        batch = read_batch(batch)
        batch.entropy_coefficient = batch.entropy_coefficient * difficulty_weight(batch.group_accuracy, self.rho, self.shape)
