"""The rows of ``predict`` as JSONL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter

from aer_lightning.callbacks.run_files import append_jsonl, run_folder


class PredictionLog(BasePredictionWriter):
    """Appends every graded completion of ``predict`` to ``<run folder>/predictions.jsonl``, batch by batch.

    One line each: ``source``, ``id``, ``label``, ``sample``, ``outcome``, ``score``, ``extracted``, ``reason``, ``answer`` (gold),
    ``finish_reason``, ``tokens``, ``prompt`` and ``completion``.
    With several processes each writes its share, to ``predictions-<rank>.jsonl``.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="batch")

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the rows of a batch."""
        name = "predictions.jsonl" if trainer.world_size == 1 else f"predictions-{trainer.global_rank}.jsonl"
        append_jsonl(run_folder(trainer) / name, prediction)
