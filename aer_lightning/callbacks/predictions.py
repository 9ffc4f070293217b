"""The rows of ``predict`` as JSONL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter

from aer_lightning.callbacks.run_files import append_jsonl, run_folder
from aer_lightning.distributed import gather_objects
from aer_lightning.rollout import Outcome


class PredictionLog(BasePredictionWriter):
    """Appends every graded completion of ``predict`` to ``<run folder>/predictions.jsonl``, batch by batch, and prints a table at the end.

    One line each: ``source``, ``id``, ``label``, ``sample``, ``outcome``, ``score``, ``extracted``, ``reason``, ``answer`` (gold),
    ``finish_reason``, ``tokens``, ``prompt`` and ``completion``.
    With several processes each writes its share, to ``predictions-<rank>.jsonl``.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._counts: dict[tuple[str, str], list[int]] = {}

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
        for row in prediction:
            counts = self._counts.setdefault((row["source"], row["id"]), [0, 0, 0])
            counts[0] += 1
            counts[1] += row["outcome"] == Outcome.CORRECT.value
            counts[2] += row["outcome"] == Outcome.UNPARSED.value

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print what the completions came to. Collective."""
        merged = [item for share in gather_objects(list(self._counts.items())) for item in share]
        self._counts = {}
        if trainer.is_global_zero and merged:
            print("\n" + "\n".join(table(merged)))
            print(f"{sum(c[0] for _, c in merged)} completions in {(run_folder(trainer) / 'predictions*.jsonl').absolute()}")


def table(counts: list[tuple[tuple[str, str], list[int]]]) -> list[str]:
    """Markdown lines: for each source its problems, completions, pass@1, pass@n and the share without an answer.

    Args:
        counts: ((source, problem), [completions, correct ones, unparsed ones]).
    """
    lines = ["| source | problems | completions | pass@1 | pass@n | unparsed |", "|---|---|---|---|---|---|"]
    for source in dict.fromkeys(source for (source, _), _ in counts):
        of = [c for (s, _), c in counts if s == source]
        drawn = sum(n for n, _, _ in of)
        shares = (sum(c / n for n, c, _ in of) / len(of), sum(c > 0 for _, c, _ in of) / len(of), sum(u for _, _, u in of) / drawn)
        lines.append(f"| {source} | {len(of)} | {drawn} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    return lines
