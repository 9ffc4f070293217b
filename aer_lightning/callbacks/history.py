"""``metrics.csv``: what a run logs, whatever its loggers, from its first rollout on also when it was resumed."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_warn

from aer_lightning.callbacks.run_files import logged_now, run_folder
from aer_lightning.errors import ConfigError, SaveError
from aer_lightning.patient_files import NO_ROOM
from aer_lightning.reporting.metrics_file import FIRST, MetricsFile
from aer_lightning.reporting.run_metrics import METRICS_FILE
from aer_lightning.rollout import RolloutBatch


class MetricsHistory(pl.Callback):
    """Writes ``<run folder>/metrics.csv``, a row per rollout and per evaluation, and keeps the rows in the checkpoint.

    Curves, summary and ``compare`` read this file, so that they need no logger. A row holds everything that was logged (``self.log``),
    with ``epoch`` and ``step`` (index of the optimizer step). A resumed run starts with the rows from before the checkpoint: rows of a
    part that was lost are dropped. Has to come after the entropy stack among the callbacks, so that its values of the step are known
    here, and before those that read the file.

    Raises:
        ConfigError: a ``CSVLogger`` would write over the file.
    """

    def __init__(self) -> None:
        self._file: MetricsFile | None = None
        self._evaluated: set[str] = set()
        self._restored: list[dict[str, float]] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose the file."""
        path = run_folder(trainer) / METRICS_FILE
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger) and (run_folder(trainer) / logger.log_dir).resolve() == path.parent.resolve():
                raise ConfigError(
                    f"trainer.logger: CSVLogger would write over the run's own {METRICS_FILE}, which is written without a logger; "
                    "leave CSVLogger out, or give it a name"
                )
        if trainer.is_global_zero and (self._file is None or self._file.path != path):
            self._file = MetricsFile(path, rank_zero_warn)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the rows from before the resume."""
        if self._restored is not None and self._file is not None:
            self._file.replace(self._restored)
        self._restored = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write the rollout's row."""
        if isinstance(batch, RolloutBatch) and batch.last:
            # What other callbacks put there without logging it, such as LearningRateMonitor, counts too.
            others = {k: v for k, v in trainer.callback_metrics.items() if k not in self._evaluated}
            # As Lightning's loggers have it: an update has its own index for a step.
            self._append(trainer, others | logged_now(trainer), trainer.global_step - 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what a full disk had not taken.

        Raises:
            SaveError: it still does not take it.
        """
        if self._file is not None and not self._file.complete():
            raise SaveError(f"{self._file.path}: {NO_ROOM}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the evaluation's row."""
        if not trainer.sanity_checking:
            row = logged_now(trainer)
            self._evaluated |= row.keys()
            self._append(trainer, row, trainer.global_step)

    on_test_end = on_validation_end

    def _append(self, trainer: pl.Trainer, values: dict[str, Any], step: int) -> None:
        row = {k: float(v) for k, v in values.items() if k not in FIRST}
        if self._file is not None and row:
            self._file.append({"epoch": trainer.current_epoch, "step": step} | row)

    def state_dict(self) -> dict[str, Any]:
        """Rows up to now, on rank zero."""
        return {"rows": [] if self._file is None else list(self._file.rows)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows back; they are written when training starts."""
        self._restored = state_dict["rows"]
