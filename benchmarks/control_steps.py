"""A coefficient that is moved by hand, for the open-loop picture of docs/control.md. A class path for a configuration."""

from __future__ import annotations

from collections.abc import Sequence

from aer_lightning.callbacks.coefficient import CoefficientCallback
from aer_lightning.rollout import RolloutBatch


class SteppedCoefficient(CoefficientCallback):
    """Alpha stays at each level for the same number of rollouts, then goes on to the next; at the last one it stays.

    Args:
        levels: values of alpha, below 0 too.
        hold: rollouts at each.
    """

    def __init__(self, levels: Sequence[float] = (0.0, 0.1), hold: int = 25) -> None:
        super().__init__()
        self.levels, self.hold = list(levels), hold
        self.alpha = self.levels[0]

    def advance(self, batch: RolloutBatch) -> None:
        """Take the level of the next rollout."""
        self.alpha = self.levels[min((self.rollouts + 1) // self.hold, len(self.levels) - 1)]
