"""REPO-R: advantages rescaled by the log-probability of the sampled token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aer_lightning.algorithms.objectives.aggregation import Aggregation, aggregate, check_aggregation
from aer_lightning.algorithms.objectives.clip import check_clip, clipped_surrogate
from aer_lightning.algorithms.objectives.inputs import LossInputs
from aer_lightning.algorithms.objectives.metrics import Metrics, masked_mean_metric
from aer_lightning.errors import ConfigError


def rescale_advantage(advantage: Tensor, logprob: Tensor, zeta: float) -> Tensor:
    """A (1 - zeta log pi) where A > 0, at least 0; A (1 + zeta log pi) where A < 0, at most 0. No gradient through log pi.

    Args:
        advantage: broadcastable to ``logprob``.
        logprob: log pi of the sampled token, nat.
        zeta: above 0 a rare right token gains and a rare wrong one loses less; below 0 the other way round.

    Returns:
        The shape of ``logprob``.

    Example (a token of probability e^-2):
        >>> rescale_advantage(torch.tensor([1.0, -1.0, -1.0]), torch.tensor([-2.0, -2.0, -2.0]), 0.25).tolist()
        [1.5, -0.5, -0.5]
    """
    step = zeta * logprob.detach()
    return torch.where(advantage > 0, (advantage * (1 - step)).clamp(min=0), (advantage * (1 + step)).clamp(max=0))


@dataclass(frozen=True)
class REPORObjective:
    """The plain clip on advantages that are rescaled token by token, so that they no longer rise with the log-probability.

    Differs from ``ClipObjective`` in the advantage alone: see ``rescale_advantage``. The covariance of advantage and log-probability is
    what takes the entropy down; zeta takes it out. A callback may move zeta once a rollout: ``REPORScale``.

    Source: REPO, arXiv 2603.11682, REPO-R (App. D.2), with log pi of the current policy in the place of its centred value, as in
    SkyRL's pull request 1896.

    Args:
        zeta: where no callback moves it; SkyRL starts at 0.001.
        clip_low: distance below 1 at which the ratio is clipped, in (0, 1].
        clip_high: distance above 1 at which the ratio is clipped.
        aggregation: denominator of the loss.
    """

    zeta: float = 1e-3
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Aggregation = "token_mean"
    reads: ClassVar[tuple[str, ...]] = ("zeta",)

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high)
        check_aggregation(self.aggregation)
        if not abs(self.zeta) < float("inf"):
            raise ConfigError(f"zeta: must be finite, got {self.zeta}")

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """Return the loss and advantage_scale (mean of rescaled / given advantage) with the metrics of ``ClipObjective``."""
        logprob = torch.where(inputs.mask, inputs.logprob.detach(), torch.zeros_like(inputs.logprob))
        given = inputs.advantage[:, None].to(logprob.dtype).expand_as(logprob)
        advantage = rescale_advantage(given, logprob, inputs.scalars.get("zeta", self.zeta))
        loss, metrics = clipped_surrogate(inputs, advantage, self.clip_low, self.clip_high)
        moved = inputs.mask & (given != 0)
        metrics["advantage_scale"] = masked_mean_metric(advantage / torch.where(moved, given, torch.ones_like(given)), moved)
        return aggregate(loss, inputs, self.aggregation), metrics
