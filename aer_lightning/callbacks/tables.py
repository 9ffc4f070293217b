"""Rows as tables of loggers that have them (W&B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl

from aer_lightning.reporting.run_metrics import split_sources


def log_table(trainer: pl.Trainer, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Log rows of the same keys as a table to every logger that has ``log_table``. Rank zero.

    Args:
        trainer: whose loggers.
        key: name of the table.
        rows: none logs nothing.
    """
    if not rows or not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if hasattr(logger, "log_table"):
            logger.log_table(key, columns=list(rows[0]), data=[list(row.values()) for row in rows], step=trainer.global_step)


def pass_at_k_rows(metrics: Mapping[str, Any], rollouts: int) -> list[dict[str, Any]]:
    """A row for each held-out source and label: ``rollouts``, ``source``, ``label`` ("" for all), then every pass@k.

    Args:
        metrics: logged figures, ``val/<source>/[<label>/]pass@<k>`` or ``test/...``; others are left out.
        rollouts: trained on so far.
    """
    values = {f"val/{k.partition('/')[2]}": float(v) for k, v in metrics.items() if k.startswith(("val/", "test/"))}
    rows = []
    for source, figures in split_sources(values).items():
        split = [name.rpartition("pass@") for name in figures if "pass@" in name]
        ks = sorted({int(k) for _, _, k in split if k.isdigit()})
        for label in dict.fromkeys(label for label, _, k in split if k.isdigit()):
            found = {f"pass@{k}": figures.get(f"{label}pass@{k}") for k in ks}
            rows.append({"rollouts": rollouts, "source": source, "label": label.rstrip("/"), **found})
    return rows
