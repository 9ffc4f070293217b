"""What each difficulty does: reward, entropy and lambda of a rollout by the label of its prompts."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl

from aer_lightning.distributed import gather_objects
from aer_lightning.rollout import RolloutBatch

FIGURES = ("reward", "entropy", "coefficient")


class LabelFigures(pl.Callback):
    """Logs ``label/<label>/reward`` (mean over completions), ``entropy`` (nat per token) and ``coefficient`` (mean lambda(q)).

    Args:
        most: a source with more labels than this is not split; 0 logs nothing.
    """

    def __init__(self, most: int = 12) -> None:
        self.most = most

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log after a rollout's last optimizer step. Collective."""
        if not self.most or not isinstance(batch, RolloutBatch) or not batch.last:
            return
        sums: dict[str, list[float]] = {}
        for s in trainer.datamodule.last_samples:  # type: ignore[attr-defined]
            entropy = 0.0 if s.entropy is None else float(s.entropy.double().sum())
            sample = (1.0, s.reward, float(len(s.token_ids)), entropy, math.nan if s.coefficient is None else s.coefficient)
            sums[s.label] = [a + b for a, b in zip(sums.get(s.label, [0.0] * 5), sample, strict=True)]
        merged: dict[str, list[float]] = {}
        for share in gather_objects(sums):
            for label, part in share.items():
                merged[label] = [a + b for a, b in zip(merged.get(label, [0.0] * 5), part, strict=True)]
        if not 1 < len(merged) <= self.most:
            return
        for label, (n, reward, tokens, entropy, coefficient) in merged.items():
            values = (reward / n, entropy / max(tokens, 1.0), coefficient / n)
            name = label.replace("/", " ")
            figures = {f"label/{name}/{f}": v for f, v in zip(FIGURES, values, strict=True) if math.isfinite(v)}
            pl_module.log_dict(figures, on_step=True, on_epoch=False, batch_size=1)
