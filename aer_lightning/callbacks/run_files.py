"""Where a run's files are, and how its JSONL files grow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn

from aer_lightning.errors import SaveError
from aer_lightning.patient_files import NO_ROOM, PatientFile
from aer_lightning.reporting.run_metrics import METRICS_FILE, RunMetrics, collect_rows, read_rows


def run_folder(trainer: pl.Trainer) -> Path:
    """The run's folder, made if it is not there."""
    path = Path(trainer.default_root_dir)
    path.mkdir(parents=True, exist_ok=True)
    return path


def logged_metrics(trainer: pl.Trainer) -> RunMetrics:
    """What ``MetricsHistory`` has written so far; empty without it."""
    path = run_folder(trainer) / METRICS_FILE
    return collect_rows(read_rows(path) if path.is_file() else [])


def logged_now(trainer: pl.Trainer) -> dict[str, Any]:
    """What the running loop has logged; ``trainer.callback_metrics`` has figures of earlier evaluations among them."""
    return dict(trainer._logger_connector.metrics["callback"])


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append one line per row. Numbers that JSON does not know (NaN, infinity) become null."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(map(line, rows))


def line(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON."""
    return json.dumps({k: plain(v) for k, v in row.items()}, ensure_ascii=False) + "\n"


class RowLog(pl.Callback):
    """A callback that appends rows to a JSONL file of the run's folder while it trains.

    Rows that a full disk does not take wait in memory and in the checkpoint, so that none is missing once it takes them, in this run or
    in one that goes on.
    """

    file_name: str

    def __init__(self) -> None:
        self._rows_file: PatientFile | None = None
        self._waiting = ""

    def append_rows(self, trainer: pl.Trainer, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append one line per row. Rank zero.

        Raises:
            SaveError: the disk does not take them, and there is no later.
        """
        file = self._opened(trainer)
        file.write("".join(map(line, rows)).encode())
        if not file.flush() and trainer.state.fn != "fit":
            raise SaveError(f"{file.path} cannot be written; make room and start again")

    def _opened(self, trainer: pl.Trainer) -> PatientFile:
        if self._rows_file is None:
            self._rows_file = PatientFile(run_folder(trainer) / self.file_name, rank_zero_warn)
            self._rows_file.write(self._waiting.encode())
            self._waiting = ""
        return self._rows_file

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what still waits.

        Raises:
            SaveError: the disk still does not take it.
        """
        if trainer.is_global_zero and not (file := self._opened(trainer)).flush():
            raise SaveError(f"{file.path}: {NO_ROOM}")

    def state_dict(self) -> dict[str, Any]:
        """Rows that wait; nothing where none does."""
        waiting = self._rows_file.waiting.decode() if self._rows_file is not None else self._waiting
        return {"waiting": waiting} if waiting else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows back."""
        self._waiting = state_dict.get("waiting", "")


def plain(value: Any) -> Any:
    """None for a float that JSON cannot hold, else the value."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
