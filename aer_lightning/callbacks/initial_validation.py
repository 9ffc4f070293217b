"""One evaluation of the initial policy, so that every run knows its "before"."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loops.utilities import _reset_progress
from lightning.pytorch.utilities.seed import isolate_rng


class InitialValidation(pl.Callback):
    """Runs one whole validation when a fresh run starts, and logs it at step 0. Training is what it would be without it.

    Lightning's own sanity check runs a few batches and throws the figures away. Not done for a run that is resumed, or where
    validation is off. Callbacks that act on validation (early stopping, checkpoints by a metric) see it like any other.

    Args:
        enabled: whether to do it.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate, then put back everything that the validation loop leaves changed."""
        if not self.enabled or trainer.global_step > 0 or trainer.ckpt_path is not None or not trainer.enable_validation:
            return
        loop = trainer.fit_loop.epoch_loop.val_loop
        has_run = loop._has_run
        with isolate_rng():
            run_validation(trainer)
        # The counters go into checkpoints; with these set back they are those of a run without this evaluation.
        _reset_progress(loop)
        loop._has_run = has_run
        loop._seen_batches_per_dataloader = defaultdict(int)


def run_validation(trainer: pl.Trainer, epochs_done: int = 0) -> None:
    """Run one whole validation at the start of training, logged as one that the training loop runs.

    Args:
        trainer: in its ``on_train_start``.
        epochs_done: epochs to count less while it runs, where it belongs to the end of an earlier one.
    """
    connector = trainer._logger_connector
    first, function = connector._first_loop_iter, connector._current_fx
    progress: Any = trainer.fit_loop.epoch_progress.current
    # As the training loop does it: this picks the loop whose results `self.log` writes to.
    trainer.validating = True
    progress.completed -= epochs_done
    try:
        trainer.fit_loop.epoch_loop.val_loop.run()
    finally:
        trainer.training = True
        progress.completed += epochs_done
    connector._first_loop_iter, connector._current_fx = first, function
