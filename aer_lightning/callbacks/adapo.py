"""ADAPO's feedback on the upper clip bound."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from aer_lightning.algorithms.feedback import ClipHighRule
from aer_lightning.callbacks.feedback import FeedbackCallback
from aer_lightning.errors import ConfigError


class ADAPOClip(FeedbackCallback):
    """Moves clip_high of ``ClipObjective``: up by a factor below the target entropy, down by it above.

    The clip acts where a ratio is not 1, so it takes two or more optimizer steps on a rollout. Source: ADAPO, arXiv 2603.11682; the
    step and its bounds are our reading, see ``ClipHighRule``. The target is the initial entropy: ``EntropyAnchor(tau=1.0)``.

    Args:
        init: clip_high of the first rollout.
        factor: of a step, above 1.
        smallest: smallest clip_high.
        largest: largest clip_high.

    Raises:
        ConfigError: an option is out of range.
    """

    scalar = "clip_high"

    def __init__(self, init: float = 0.28, factor: float = 2.0, smallest: float = 0.05, largest: float = 1.0) -> None:
        super().__init__(ClipHighRule(init, factor, smallest, largest))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a single optimizer step per rollout, in which no clip acts."""
        super().setup(trainer, pl_module, stage)
        sizes: Any = getattr(getattr(trainer, "datamodule", None), "sizes", None)
        if stage == "fit" and sizes is not None and sizes.steps < 2:
            raise ConfigError(
                "data.init_args.optimizer_steps_per_rollout: ADAPOClip moves the clip, and with one optimizer step every ratio is 1 and "
                "nothing is clipped; set 2 or more"
            )
