"""Objectives that weight the clipped loss by the sign of the advantage: Positive-Advantage Reweighting, STARE and EntroPIC."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aer_lightning.algorithms.objectives.aggregation import Aggregation, aggregate, check_aggregation
from aer_lightning.algorithms.objectives.clip import check_clip, clipped_surrogate
from aer_lightning.algorithms.objectives.inputs import CovarianceStatistics, LossInputs
from aer_lightning.algorithms.objectives.metrics import Metrics, masked_mean_metric
from aer_lightning.algorithms.objectives.selection import is_selected, judged_logprob, largest, sequence_index, token_order
from aer_lightning.errors import ConfigError


@dataclass(frozen=True)
class PositiveAdvantageObjective:
    """The plain clip, with the loss of tokens of positive advantage weighted by one number.

    Differs from ``ClipObjective`` in that factor alone. Tokens of positive advantage sharpen the policy, so a weight below 1 holds the
    entropy up and 0 trains on what was wrong only. A callback may move the weight once a rollout: ``PositiveAdvantageWeight``.

    Source: Positive-Advantage Reweighting, arXiv 2511.05993, section 7.3.

    Args:
        positive_weight: lambda where no callback moves it, at least 0; 1 is the plain objective.
        clip_low: distance below 1 at which the ratio is clipped, in (0, 1].
        clip_high: distance above 1 at which the ratio is clipped.
        aggregation: denominator of the loss.
    """

    positive_weight: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Aggregation = "token_mean"
    reads: ClassVar[tuple[str, ...]] = ("positive_weight",)

    def __post_init__(self) -> None:
        _check(self.clip_low, self.clip_high, self.aggregation)
        _check_weight("positive_weight", self.positive_weight)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """Return the loss and the metrics of ``ClipObjective``."""
        advantage = inputs.advantage[:, None].to(inputs.logprob.dtype)
        loss, metrics = clipped_surrogate(inputs, advantage, self.clip_low, self.clip_high)
        weight = inputs.scalars.get("positive_weight", self.positive_weight)
        return aggregate(torch.where(advantage > 0, weight * loss, loss), inputs, self.aggregation), metrics


@dataclass(frozen=True)
class STAREObjective:
    """The plain clip, with a weight on the tokens of positive advantage and largest surprisal.

    Differs from ``ClipObjective`` in that the loss of the ``share`` of tokens with the largest -log pi among those with A > 0 is
    multiplied by W. A callback opens and closes the weight once a rollout: ``STAREGate``.

    Source: STARE, arXiv 2606.19236, sections 4.1 and 4.2 (variant O1), and its repository hp-luo/STARE, which selects within a
    micro-batch by the current policy; here k = max(1, ceil(share n)) of the n tokens of the whole optimizer step are selected when the
    rollout was scored. Of equal surprisals the first in the rollout are taken.

    Args:
        weight: W where no callback moves it, above 0; the source's is 1.1.
        share: of the tokens of positive advantage, in (0, 1]; the source's is 0.1.
        clip_low: distance below 1 at which the ratio is clipped, in (0, 1].
        clip_high: distance above 1 at which the ratio is clipped.
        aggregation: denominator of the loss.
    """

    weight: float = 1.1
    share: float = 0.1
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Aggregation = "token_mean"
    reads: ClassVar[tuple[str, ...]] = ("surprisal_weight",)

    def __post_init__(self) -> None:
        _check(self.clip_low, self.clip_high, self.aggregation)
        _check_weight("weight", self.weight)
        if not 0 < self.share <= 1:
            raise ConfigError(f"share: must be above 0 and at most 1, got {self.share}")

    def statistics(self, logprob: Tensor, advantage: Tensor, mask: Tensor, sequence_index: Tensor | None = None) -> CovarianceStatistics:
        """See ``CovarianceObjective.statistics``; the threshold is one of surprisal, nat."""
        positive = mask & (advantage > 0)[:, None]
        values = -logprob.detach()[positive]
        if not values.numel():
            return CovarianceStatistics(0.0, 0.0)
        index = torch.arange(mask.shape[0], device=mask.device) if sequence_index is None else sequence_index
        # As a fraction of integers: 0.1 of 30 tokens is 3, not ceil(3.0000000000000004).
        count = max(1, math.ceil(round(self.share * values.numel(), 6)))
        threshold, tie = largest(values, token_order(index, mask.shape[1])[positive], count)
        return CovarianceStatistics(0.0, 0.0, threshold=threshold, tie=tie)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """Return the loss and surprisal_selected (share of all tokens) with the metrics of ``ClipObjective``."""
        advantage = inputs.advantage[:, None].to(inputs.logprob.dtype)
        loss, metrics = clipped_surrogate(inputs, advantage, self.clip_low, self.clip_high)
        logprob, index = judged_logprob(inputs), sequence_index(inputs)
        statistics = inputs.covariance or self.statistics(logprob, inputs.advantage, inputs.mask, index)
        chosen = inputs.mask & (advantage > 0) & is_selected(-logprob, token_order(index, logprob.shape[1]), statistics)
        weight = inputs.scalars.get("surprisal_weight", self.weight)
        metrics["surprisal_selected"] = masked_mean_metric(chosen, inputs.mask)
        return aggregate(torch.where(chosen, weight * loss, loss), inputs, self.aggregation), metrics


@dataclass(frozen=True)
class EntroPICObjective:
    """The clipped loss, and on tokens that the policy is sure of a second term that weighs right answers up and wrong ones down.

    Differs from ``ClipObjective`` in the term - alpha r |A| on tokens with pi > ``probability``, which makes the weight of such a token
    1 + alpha where A > 0 and 1 - alpha where A < 0. Above 0 it lowers the entropy, below 0 it raises it. A callback moves alpha once a
    rollout: ``EntroPICWeight``.

    Source: EntroPIC, arXiv 2511.15248, and its repository yk7333/EntroPIC (``compute_policy_loss_entropic``: probability 0.95, dual
    clip 3). Its code divides the second term by the number of sure tokens, here it has the loss's own denominator.

    Args:
        alpha: where no callback moves it, in [-1, 1]; 0 is the plain objective.
        probability: above which a token counts as sure, in (0, 1).
        clip_low: distance below 1 at which the ratio is clipped, in (0, 1].
        clip_high: distance above 1 at which the ratio is clipped.
        dual_clip: see ``ClipObjective``; null for none.
        aggregation: denominator of the loss.
    """

    alpha: float = 0.0
    probability: float = 0.95
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = 3.0
    aggregation: Aggregation = "token_mean"
    reads: ClassVar[tuple[str, ...]] = ("sure_weight",)

    def __post_init__(self) -> None:
        _check(self.clip_low, self.clip_high, self.aggregation)
        if not -1 <= self.alpha <= 1:
            raise ConfigError(f"alpha: must be from -1 to 1, so that no token's weight turns negative, got {self.alpha}")
        if not 0 < self.probability < 1:
            raise ConfigError(f"probability: must be between 0 and 1, got {self.probability}")
        if self.dual_clip is not None and not self.dual_clip > 1 + self.clip_high:
            raise ConfigError(f"dual_clip: must be above 1 + clip_high = {1 + self.clip_high}, or null for none, got {self.dual_clip}")

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """Return the loss and sure_tokens (share of all tokens) with the metrics of ``ClipObjective``."""
        advantage = inputs.advantage[:, None].to(inputs.logprob.dtype)
        loss, metrics = clipped_surrogate(inputs, advantage, self.clip_low, self.clip_high, self.dual_clip)
        sure = inputs.mask & (inputs.logprob.detach() > math.log(self.probability))
        alpha = inputs.scalars.get("sure_weight", self.alpha)
        metrics["sure_tokens"] = masked_mean_metric(sure, inputs.mask)
        extra = -alpha * advantage.abs() * inputs.log_ratio().exp()
        return aggregate(torch.where(sure, loss + extra, loss), inputs, self.aggregation), metrics


def _check(clip_low: float, clip_high: float, aggregation: str) -> None:
    check_clip(clip_low, clip_high)
    check_aggregation(aggregation)


def _check_weight(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name}: must be at least 0 and finite, got {value}")
