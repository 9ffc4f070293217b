"""TensorBoard's files of a run, on a disk that may be full for a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from aer_lightning.patient_files import PatientFile


class EventLog(TensorBoardLogger):
    """Lightning's logger for TensorBoard whose events wait for a disk that does not take them.

    TensorBoard's own writer ends at the first error, with a traceback in a thread, and raises at every figure that follows.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The summary writer, whose file is replaced by a patient one when it is made."""
        fresh = self._experiment is None
        writer = super().experiment
        if fresh:
            events = writer._get_file_writer().event_writer
            events._async_writer._writer._writer = PatientFile(Path(events._file_name), rank_zero_warn)
        return writer
