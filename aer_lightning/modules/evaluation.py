"""What the policy module does in validation, test and prediction: it counts what the data generated and graded."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from aer_lightning.metrics.table import EvaluationTable
from aer_lightning.rollout import EvaluationBatch


class EvaluationSteps(pl.LightningModule):
    """The evaluation hooks of ``PolicyModule``.

    Attributes:
        evaluation: counts of the evaluation that runs or ran last.
    """

    evaluation: EvaluationTable | None = None

    def on_validation_epoch_start(self) -> None:
        """Fresh counts for every evaluation."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.evaluation = EvaluationTable(data.evaluation_plan(), data.eval_ks, data.eval_samples, self.device)

    def validation_step(self, batch: EvaluationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count what the data generated and graded."""
        assert self.evaluation is not None
        self.evaluation.update(batch)

    def on_validation_epoch_end(self) -> None:
        """Log pass@k and its companions, overall and by label."""
        assert self.evaluation is not None
        self.log_dict(self.evaluation.compute("test" if self.trainer.testing else "val"), batch_size=1)
        self._rest()

    def _rest(self) -> None:
        """One sleep for a whole evaluation, whatever its batches and sources."""
        self.trainer.datamodule.rest()  # type: ignore[attr-defined]

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: EvaluationBatch, batch_idx: int, dataloader_idx: int = 0) -> list[dict[str, Any]]:
        """The graded completions of a batch, one plain row each."""
        return batch.rows
