"""A resumed run's metrics start where the run started, not where it was resumed."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger

from aer_lightning.callbacks.run_files import csv_logger, logged_rows
from aer_lightning.reporting.run_metrics import INDEX
from aer_lightning.rollout import RolloutBatch


class MetricsHistory(pl.Callback):
    """Keeps the rows of ``metrics.csv`` in the checkpoint and writes them again on resume.

    Without it the CSV logger begins an empty file (and deletes the old one where the folder is the same), and a row that was logged
    in the very step of a mid-epoch checkpoint would be in neither file: Lightning writes it after the checkpoint. Has to come after
    the entropy stack among the callbacks, so that its values of the step are known here.
    """

    def __init__(self) -> None:
        self._trainer: pl.Trainer | None = None
        self._pending: dict[str, float] | None = None
        self._restored: list[dict[str, float]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remember whose rows to keep."""
        self._trainer = trainer if stage == "fit" else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the rows from before the resume."""
        logger = csv_logger(trainer)
        if logger is not None and trainer.is_global_zero:
            write_rows(logger, self._restored)
        self._restored = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Hold the rollout's row until the logger has it."""
        if isinstance(batch, RolloutBatch) and batch.last and trainer.is_global_zero:
            row = {k: float(v) for k, v in trainer.logged_metrics.items() if not k.startswith(("val/", "test/"))}
            # Lightning logs the step of an update by its own index, and adds the epoch.
            self._pending = {**row, "epoch": float(trainer.current_epoch), "step": float(trainer.global_step - 1)}

    def state_dict(self) -> dict[str, Any]:
        """Rows logged up to now, on rank zero."""
        if self._trainer is None or not self._trainer.is_global_zero or csv_logger(self._trainer) is None:
            return {"rows": []}
        rows = logged_rows(self._trainer)
        pending = self._pending
        if pending is not None and INDEX in pending and all(row.get(INDEX) != pending[INDEX] for row in reversed(rows)):
            rows.append(pending)
        return {"rows": rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows back; they are written when training starts."""
        self._restored = state_dict["rows"]


def write_rows(logger: CSVLogger, rows: list[dict[str, float]]) -> None:
    """Log rows at the steps that they had."""
    for row in rows:
        values: dict[str, Any] = {k: int(v) if k == "epoch" else v for k, v in row.items() if k != "step"}
        logger.log_metrics(values, step=int(row.get("step", 0)))
    if rows:
        logger.save()
