"""Per-problem counts of every evaluation, so that pass@k can be had later for any k and by any split."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from aer_lightning.callbacks.run_files import RowLog, logged_now
from aer_lightning.callbacks.tables import log_table, pass_at_k_rows
from aer_lightning.distributed import gather_objects
from aer_lightning.errors import ConfigError
from aer_lightning.rollout import EvaluationBatch, Outcome


class EvaluationLog(RowLog):
    """Appends one line per problem and evaluation to ``<run folder>/evaluation.jsonl``.

    ``step`` (optimizer steps done), ``rollouts`` (rollouts trained on), ``stage``, ``source``, ``id``, ``label``, ``n`` samples, how many
    are ``correct``, ``distinct_correct`` different right answers, ``tokens`` and ``truncated`` as sums over the n samples. Loggers
    that have tables (W&B) get ``pass_at_k``: every evaluation so far, by source and label.

    Args:
        every: write every so many evaluations, and always the one before training; 0 writes none.

    Raises:
        ConfigError: ``every`` is negative.
    """

    file_name = "evaluation.jsonl"

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        if every < 0:
            raise ConfigError(f"evaluation_log.every: must be at least 1, or 0 to write none, got {every}")
        self.every = every
        self._rows: list[dict[str, Any]] = []
        self._table: list[dict[str, Any]] = []
        self._seen = 0

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count the batch's problems."""
        if isinstance(batch, EvaluationBatch) and not trainer.sanity_checking:
            self._rows += count(batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the problems of all ranks, and write them on rank zero. Collective."""
        rows, self._rows = self._rows, []
        if trainer.sanity_checking or not self.every:
            return
        before = trainer.global_step == 0
        self._seen += not before
        if not before and self._seen % self.every:
            return
        shares = gather_objects(rows)
        if not trainer.is_global_zero:
            return
        facts = {
            "step": trainer.global_step,
            "rollouts": getattr(trainer.datamodule, "rollouts", 0),  # type: ignore[attr-defined]
            "stage": str(trainer.state.fn.value) if trainer.state.fn is not None else "",
        }
        # Ranks hold every so manieth problem; by source and place they come out as on one rank.
        self.append_rows(trainer, ({**facts, **row} for row in interleave(shares)))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the table."""
        if not trainer.sanity_checking:
            self._table += pass_at_k_rows(logged_now(trainer), getattr(trainer.datamodule, "rollouts", 0))  # type: ignore[attr-defined]
            log_table(trainer, "pass_at_k", self._table)

    on_test_end = on_validation_end
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def state_dict(self) -> dict[str, Any]:
        """How many evaluations there were, for ``every``, the table so far, and rows that wait for the disk."""
        return super().state_dict() | {"seen": self._seen, "table": list(self._table)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take all of it back."""
        super().load_state_dict(state_dict)
        self._seen, self._table = state_dict["seen"], list(state_dict.get("table", []))


def count(batch: EvaluationBatch) -> list[dict[str, Any]]:
    """One row per problem of the batch."""
    rows = []
    for i, name in enumerate(batch.prompt_ids):
        correct = [outcome == Outcome.CORRECT.value for outcome in batch.outcomes[i]]
        answers = {a for a, right in zip(batch.answers[i], correct, strict=True) if right}
        rows.append(
            {
                "source": batch.source,
                "id": name,
                "label": batch.labels[i],
                "n": len(correct),
                "correct": sum(correct),
                "distinct_correct": len(answers),
                "tokens": sum(batch.lengths[i]),
                "truncated": sum(batch.truncated[i]),
            }
        )
    return rows


def interleave(shares: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of all ranks by source, in the order in which the ranks took them: first of each rank, second of each, ..."""
    sources = dict.fromkeys(row["source"] for share in shares for row in share)
    merged = []
    for source in sources:
        columns = [[row for row in share if row["source"] == source] for share in shares]
        merged += [column[i] for i in range(max(map(len, columns))) for column in columns if i < len(column)]
    return merged
