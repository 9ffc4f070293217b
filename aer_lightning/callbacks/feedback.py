"""What every rival that steers the policy loss does: write a number to the batch, move it once per rollout, show its state."""

from __future__ import annotations

from typing import Any, ClassVar

import lightning.pytorch as pl

from aer_lightning.algorithms.feedback import FeedbackRule, FeedbackState
from aer_lightning.callbacks.stack import EntropyCallback, read_batch
from aer_lightning.errors import ConfigError


class FeedbackCallback(EntropyCallback):
    """Writes the rule's value to ``batch.scalars`` for the objective; after a rollout's last optimizer step updates it once.

    The target is the anchor's: ``EntropyAnchor`` with tau 1 is the initial entropy, with ``absolute`` one in nat. A rollout's entropy is
    known when it has been trained on, so a rule acts on the one after. Validation calls none of the hooks used here.

    Attributes:
        scalar: name under which the objective reads the number.
    """

    role = "feedback"
    needs_anchor = True
    follows_entropy = True
    scalar: ClassVar[str]

    def __init__(self, rule: FeedbackRule) -> None:
        self.rule = rule
        self.state: FeedbackState = rule.start()
        self.rollouts = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse an objective that would not read the number."""
        super().setup(trainer, pl_module, stage)
        objective: Any = getattr(pl_module, "objective", None)
        if stage == "fit" and self.scalar not in getattr(objective, "reads", ()):
            raise ConfigError(
                f"model.init_args.objective: {type(self).__name__} moves {self.scalar}, which {type(objective).__name__} does not read; "
                f"choose an objective with {self.scalar} in its reads, or leave {type(self).__name__} out of trainer.callbacks"
            )

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the number."""
        read_batch(batch).scalars[self.scalar] = self.state.value

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """At the end of the rollout log the state and move it exactly once."""
        if not batch.last:
            return
        low, high = self.rule.bounds
        at_limit = float(self.state.value >= high) - float(self.state.value <= low)
        values = {f"feedback/{self.scalar}": self.state.value, "feedback/at_limit": at_limit}
        pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)
        assert batch.target_entropy is not None, "EntropyAnchor writes the target before this callback runs"
        self.state = self.rule.update(self.state, batch.info.entropy, batch.target_entropy)
        self.rollouts += 1

    def state_dict(self) -> dict[str, Any]:
        """The rule's state and the number of rollouts."""
        return {**self.state._asdict(), "rollouts": self.rollouts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state back, bit for bit."""
        self.state = FeedbackState(state_dict["value"], state_dict["memory"])
        self.rollouts = state_dict["rollouts"]
