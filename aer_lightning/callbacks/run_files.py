"""Where a run's files are, and how its JSONL files grow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger

from aer_lightning.reporting.run_metrics import METRICS_FILE, RunMetrics, collect_rows, read_rows


def run_folder(trainer: pl.Trainer) -> Path:
    """The run's folder, made if it is not there."""
    path = Path(trainer.default_root_dir)
    path.mkdir(parents=True, exist_ok=True)
    return path


def csv_logger(trainer: pl.Trainer) -> CSVLogger | None:
    """The logger that writes ``metrics.csv``, if there is one."""
    return next((logger for logger in trainer.loggers if isinstance(logger, CSVLogger)), None)


def metrics_file(trainer: pl.Trainer) -> Path | None:
    """``metrics.csv`` of the run, None where no logger writes one."""
    logger = csv_logger(trainer)
    return None if logger is None else Path(logger.log_dir) / METRICS_FILE


def logged_rows(trainer: pl.Trainer) -> list[dict[str, float]]:
    """Rows logged so far; none without a CSV logger."""
    path = metrics_file(trainer)
    return read_rows(path) if path is not None and path.is_file() else []


def logged_metrics(trainer: pl.Trainer) -> RunMetrics:
    """What the run has logged so far; empty without a CSV logger."""
    return collect_rows(logged_rows(trainer))


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append one line per row. Numbers that JSON does not know (NaN, infinity) become null."""
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({k: plain(v) for k, v in row.items()}, ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:
    """None for a float that JSON cannot hold, else the value."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
