"""The entropy stack: an anchor, then a coefficient with a weight, or a rival's feedback. What makes no sense is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import lightning.pytorch as pl

from aer_lightning.errors import ConfigError
from aer_lightning.rollout import RolloutBatch

Role = Literal["anchor", "coefficient", "weight", "feedback"]


class EntropyCallback(pl.Callback):
    """A part of the entropy stack. Each writes to the batch what the next one and ``training_step`` read.

    Attributes:
        role: ``anchor`` writes ``target_entropy``; ``coefficient`` writes ``entropy_coefficient``; ``weight`` multiplies it; ``feedback``
            writes a number that the objective reads.
        needs_anchor: whether it follows a target that an anchor has to write.
        follows_entropy: whether what it writes moves with the measured entropy.
    """

    role: ClassVar[Role]
    needs_anchor: bool = False
    follows_entropy: bool = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a stack that makes no sense, before anything is loaded."""
        if stage == "fit":
            check_stack([c for c in trainer.callbacks if isinstance(c, EntropyCallback)])  # type: ignore[attr-defined]


def check_stack(stack: Sequence[EntropyCallback]) -> None:
    """Check which parts of the entropy stack there are, and their order.

    Raises:
        ConfigError: names the callback and what to do.
    """
    names = {role: [type(c).__name__ for c in stack if c.role == role] for role in get_args(Role)}
    for role, found in names.items():
        if len(found) > 1:
            raise ConfigError(f"trainer.callbacks: {' and '.join(found)} are both the {role} of the entropy stack; keep one")
    if names["weight"] and not names["coefficient"]:
        raise ConfigError(
            f"trainer.callbacks: {names['weight'][0]} multiplies a coefficient and there is none; put GlobalCoefficient or "
            "FixedCoefficient before it"
        )
    needy = [type(c).__name__ for c in stack if c.needs_anchor]
    if needy and not names["anchor"]:
        raise ConfigError(f"trainer.callbacks: {needy[0]} follows a target entropy and nothing sets one; put EntropyAnchor before it")
    moving = [type(c).__name__ for c in stack if c.follows_entropy]
    if len(moving) > 1:
        raise ConfigError(f"trainer.callbacks: {' and '.join(moving)} would both steer the entropy, against one another; keep one")
    order = [get_args(Role).index(c.role) for c in stack]
    if order != sorted(order):
        listed = ", ".join(type(c).__name__ for c in stack)
        raise ConfigError(
            f"trainer.callbacks: {listed} are in the wrong order; use {', '.join(get_args(Role))}, so that each reads what it needs"
        )


def read_batch(batch: Any) -> RolloutBatch:
    """The batch, or an error that says which loader makes one."""
    if not isinstance(batch, RolloutBatch):
        raise TypeError(f"the entropy callbacks need a RolloutBatch (RolloutDataModule yields them), got {type(batch).__name__}")
    return batch


def regularised_entropy(batch: RolloutBatch) -> float:
    """Mean entropy of a rollout that the bonus regularised, nat: H_k unless a coefficient cut it (``EntropyScope``).

    What was cut is measured in the training passes, so with several optimizer steps a rollout it is the mean over them.
    """
    return batch.info.stats.get("regularised_entropy", batch.info.entropy)
