"""Where a run's files are, and how its JSONL files grow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

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
        for row in rows:
            file.write(json.dumps({k: plain(v) for k, v in row.items()}, ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:
    """None for a float that JSON cannot hold, else the value."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
