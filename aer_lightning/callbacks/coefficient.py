"""What every coefficient of the entropy stack does: write it to the batch, move it once per rollout, show its state."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from aer_lightning.callbacks.stack import EntropyCallback, read_batch
from aer_lightning.distributed import gather_objects, rank, sum_over_ranks
from aer_lightning.rollout import RolloutBatch


class CoefficientCallback(EntropyCallback):
    """Writes ``applied()`` as lambda of every sequence; after a rollout's last optimizer step calls ``advance`` once.

    Validation calls none of the hooks used here, so it moves nothing. Subclasses say what the coefficient is.
    """

    role = "coefficient"

    def __init__(self) -> None:
        self.alpha = 0.0
        self.rollouts = 0
        self._sums = [0.0, 0.0, 0.0]  # response tokens with a lambda other than 0, sum of lambda over response tokens, response tokens

    def applied(self) -> float:
        """The coefficient that acts in the current rollout."""
        return self.alpha

    def advance(self, batch: RolloutBatch) -> None:
        """Move the coefficient at the end of a rollout, given the facts of the rollout. Nothing to do for a constant."""

    def limits(self) -> tuple[float, float] | None:
        """Smallest and largest alpha, None where it does not move."""
        return None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the coefficient; callbacks after this one may weight it."""
        batch = read_batch(batch)
        batch.entropy_coefficient = torch.full_like(batch.advantage, self.applied())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count tokens under regularisation; at the end of the rollout log the state and move alpha exactly once."""
        tokens = batch.response_lengths
        coefficient = batch.entropy_coefficient
        local = (tokens * (coefficient != 0), tokens * coefficient, tokens)
        self._sums = [total + float(values.sum()) for total, values in zip(self._sums, local, strict=True)]
        if not batch.last:
            return
        active, weighted, total = sum_over_ranks(self._sums, pl_module.device)
        self._sums = [0.0, 0.0, 0.0]
        values = {
            "aer/alpha": self.alpha,
            "aer/applied": self.applied(),
            "aer/active_tokens": active / max(total, 1.0),
            "aer/mean_coefficient": weighted / max(total, 1.0),
        }
        if (bounds := self.limits()) is not None:
            # -1 at the lower end, +1 at the upper end, 0 between: a controller that sits at an end does not control.
            values["aer/at_limit"] = float(self.alpha >= bounds[1]) - float(self.alpha <= bounds[0])
        pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)
        self.advance(batch)
        self.rollouts += 1

    def state_dict(self) -> dict[str, Any]:
        """Alpha, the number of rollouts, and what each rank counted in an unfinished one."""
        return {"alpha": self.alpha, "rollouts": self.rollouts, "sums": gather_objects(list(self._sums))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state back, bit for bit."""
        self.alpha, self.rollouts = state_dict["alpha"], state_dict["rollouts"]
        shares = state_dict["sums"]
        self._sums = list(shares[rank()]) if rank() < len(shares) else [0.0, 0.0, 0.0]
