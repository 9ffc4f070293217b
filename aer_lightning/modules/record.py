"""What the optimizer steps of a rollout measured, kept until the rollout is logged; and whether any of it is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aer_lightning.algorithms.objectives import Metrics, finish_metrics, merge_metrics
from aer_lightning.distributed import gather_objects, sum_over_ranks
from aer_lightning.errors import NonFiniteLossError
from aer_lightning.rollout import RolloutBatch, RolloutInfo


class StepRecord:
    """Sums and counts over a rollout's packs on this rank; means are taken over all packs and ranks at once.

    Attributes:
        metrics: name to (sum, count), on the CPU.
        finished: the rollout whose last step this was, or None.
        non_finite: rollout and prompts of the packs whose loss was not finite.
    """

    def __init__(self) -> None:
        self.metrics: Metrics = {}
        self.finished: RolloutInfo | None = None
        self.non_finite: list[tuple[int, list[str]]] = []

    def add(self, batch: RolloutBatch, metrics: Metrics, losses: Sequence[Tensor]) -> None:
        """Add what the packs of a step gave; ``losses`` has one number for each pack."""
        self.metrics = merge_metrics(self.metrics, {name: (s.cpu(), n.cpu()) for name, (s, n) in metrics.items()})
        self.finished = batch.info if batch.last else None
        for places, fine in zip(batch.packs, torch.isfinite(torch.stack(list(losses))).tolist(), strict=True):
            if not fine:
                self.non_finite.append((batch.info.index, [batch.samples[i].prompt_id for i in places]))

    def add_gradient_norm(self, norm: float, world_size: int) -> None:
        """Add the norm of a step, which every rank knows."""
        share = torch.tensor(1.0 / world_size)
        self.metrics = merge_metrics(self.metrics, {"grad_norm": (norm * share, share)})

    def check(self, norm_is_fine: bool, device: torch.device) -> None:
        """Stop all ranks if the loss or the gradient of one is not finite. Collective.

        Raises:
            NonFiniteLossError: with the rollout and the prompts, where a pack's loss was the first to be so.
        """
        if not sum_over_ranks([float(bool(self.non_finite) or not norm_is_fine)], device)[0]:
            return
        found = sorted({(index, name) for rank in gather_objects(self.non_finite) for index, names in rank for name in names})
        where = f"rollout {found[0][0]}, prompts {', '.join(dict.fromkeys(n for _, n in found))}" if found else "no single pack"
        raise NonFiniteLossError(
            f"the loss or its gradient is not finite ({where}); the weights were not touched. Lower the learning rate, set "
            "trainer.gradient_clip_val, or use trainer.precision bf16-mixed instead of 16-mixed; resume from the last checkpoint"
        )

    def values(self, info: RolloutInfo, world_size: int) -> dict[str, float]:
        """The figures of a finished rollout to be logged: means over its packs and ranks, and what the data measured. Collective."""
        merged = merge_metrics(*gather_objects(self.metrics)) if world_size > 1 else self.metrics
        self.metrics = {}
        means = finish_metrics(merged)
        if "regularised_entropy" in means:  # what a coefficient that regularises a part of the entropy follows
            info.stats["regularised_entropy"] = means.pop("regularised_entropy")
        values = {f"train/{name}": value for name, value in means.items()}
        values |= {f"rollout/{name}": value for name, value in info.stats.items()}
        return values | {"rollout/index": float(info.index), "rollout/entropy": info.entropy}

    def state(self) -> list[Any]:
        """Sums and counts of every rank, for a checkpoint. Collective."""
        return gather_objects({name: list(pair) for name, pair in self.metrics.items()})

    def load(self, shares: Sequence[Any], rank: int, world_size: int) -> None:
        """Take them back; those of another number of ranks are left."""
        if len(shares) == world_size:
            self.metrics = {name: (pair[0], pair[1]) for name, pair in shares[rank].items()}
