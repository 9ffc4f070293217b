"""AER, part three: hard prompts get more of the coefficient than easy ones."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from aer_lightning.algorithms.difficulty import Weight, WeightShape, check_difficulty, check_scale, difficulty_weight, normalisation
from aer_lightning.callbacks.stack import EntropyCallback, read_batch
from aer_lightning.parts import check_part


class DifficultyCoefficient(EntropyCallback):
    """Multiplies each sequence's coefficient by w(g(q)), g the share of the prompt's group that is correct.

    A group without a right answer has advantage 0 and the largest weight: entropy alone moves it. *Source* (arXiv 2510.10959):
    coefficients follow difficulty with a threshold rho. *Reading*: the shapes, and ``normalize``.

    Without ``normalize`` the share of alpha that reaches the loss falls while prompts get solved (with ``hinge`` from .4 to .2 in the
    study), and the gain of the loop around alpha with it; with it the size of the regularisation is alpha.

    Args:
        rho: accuracy below which a prompt counts as difficult, in (0, 1].
        shape: ``hinge`` clip((rho - g) / rho, 0, 1), ``gate`` 1 if g < rho else 0, ``linear`` 1 - g, ``uniform`` 1; or a function of
            g, which is a float or a tensor.
        normalize: scale the weights so that their mean over the tokens of the rollout, all ranks, is 1.
        max_scale: largest scale of ``normalize``, at least 1; what it leaves of the mean is spread over all prompts, so that a few hard
            ones do not get everything (``algorithms.difficulty.normalisation``).

    Raises:
        ConfigError: rho, shape or max_scale is out of range.
    """

    role = "weight"

    def __init__(self, rho: float = 0.5, shape: WeightShape | Weight = "hinge", normalize: bool = False, max_scale: float = 5.0) -> None:
        check_difficulty(rho, shape)
        if not isinstance(shape, str):
            check_part(shape, Weight, "DifficultyCoefficient.shape")
        check_scale(max_scale)
        self.rho, self.shape, self.normalize, self.max_scale = rho, shape, normalize, max_scale

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Weight the coefficient that the callback before has written."""
        batch = read_batch(batch)
        weight = difficulty_weight(batch.group_accuracy, self.rho, self.shape)
        if self.normalize:
            scale, offset = normalisation(batch.info.tokens_by_correct, self.rho, self.shape, self.max_scale)
            weight = scale * weight + offset
        batch.entropy_coefficient = batch.entropy_coefficient * weight
