"""Clip-Cov and KL-Cov: restrain the few tokens whose advantage and log-probability move together the most.

Both read the covariance of a token, cov = (A - mean A)(log pi - mean log pi), whose mean is what drives the change of entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from aer_lightning.algorithms.objectives.aggregation import Aggregation, aggregate, check_aggregation
from aer_lightning.algorithms.objectives.clip import check_clip, clip_metrics, clipped_token_loss, ratio_metrics
from aer_lightning.algorithms.objectives.inputs import CovarianceStatistics, LossInputs
from aer_lightning.algorithms.objectives.metrics import Metrics, masked_mean_metric
from aer_lightning.algorithms.objectives.randomness import counter_uniform
from aer_lightning.algorithms.objectives.selection import is_selected, judged_logprob, largest, sequence_index, token_order
from aer_lightning.errors import ConfigError


@runtime_checkable
class CovarianceObjective(Protocol):
    """An objective that selects tokens by statistics of the whole optimizer step, taken when the rollout was scored.

    What was counted is what is selected: given statistics, tokens are compared by their old log-probability, on which they rest.
    """

    def statistics(self, logprob: Tensor, advantage: Tensor, mask: Tensor, sequence_index: Tensor | None = None) -> CovarianceStatistics:
        """Statistics for ``LossInputs.covariance``.

        Args:
            logprob: [S, T] log-probabilities of the step's responses on all ranks, when the rollout was scored.
            advantage: [S].
            mask: [S, T] bool of response tokens.
            sequence_index: [S] place of each response in the rollout, which orders equal tokens; 0, 1, ... if left out.
        """
        ...


def token_covariance(logprob: Tensor, advantage: Tensor, mask: Tensor, statistics: CovarianceStatistics) -> Tensor:
    """[B, T] covariance of each token about the means in ``statistics``, without gradient; minus infinity outside the mask."""
    centred = advantage.detach().to(logprob.dtype)[:, None] - statistics.advantage_mean
    covariance = centred * (logprob.detach() - statistics.logprob_mean)
    return torch.where(mask, covariance, torch.full_like(covariance, float("-inf")))


def _means(logprob: Tensor, advantage: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    count = mask.sum().clamp(min=1)
    advantage = advantage.detach().to(logprob.dtype)[:, None].expand_as(logprob)
    zero = torch.zeros_like(logprob)
    return torch.where(mask, advantage, zero).sum() / count, torch.where(mask, logprob.detach(), zero).sum() / count


@dataclass(frozen=True)
class ClipCovObjective:
    """The plain clip, and besides it a few random tokens of high covariance lose their gradient.

    Differs from ``ClipObjective`` in that a share ``clip_share`` of all tokens, drawn among those with cov_low < cov < cov_high
    that the ratio clip has left alone, has its loss set to 0. They still count in the denominator.

    Source: arXiv 2505.22617 (Clip-Cov). Its code draws a fixed number, at least one, in each micro-batch; here each candidate
    is dropped independently with probability clip_share * tokens / candidates, the same expected number without the
    minimum of one, so that the choice depends on neither micro-batches nor ranks (given ``LossInputs.covariance``). Statistics of a
    step are taken before its updates, when no ratio is clipped: of the number asked for, the share that the clip has removed since is
    not made up for. Without them the candidates of the micro-batch are counted that the clip leaves.

    Args:
        clip_low: distance below 1 at which the ratio is clipped, in (0, 1].
        clip_high: distance above 1 at which the ratio is clipped.
        clip_share: share of all response tokens to drop, in (0, 1]; 0.0002 is 0.02 %.
        cov_low: lower end of the covariance of candidates.
        cov_high: upper end of the covariance of candidates.
        aggregation: denominator of the loss.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_share: float = 2e-4
    cov_low: float = 1.0
    cov_high: float = 5.0
    aggregation: Aggregation = "token_mean"

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high)
        check_aggregation(self.aggregation)
        if not 0 < self.clip_share <= 1:
            raise ConfigError(f"clip_share: must be above 0 and at most 1, got {self.clip_share}")
        if not self.cov_low < self.cov_high:
            raise ConfigError(f"cov_low: must be below cov_high = {self.cov_high}, got {self.cov_low}")

    def _candidates(self, covariance: Tensor) -> Tensor:
        return (covariance > self.cov_low) & (covariance < self.cov_high)

    def statistics(self, logprob: Tensor, advantage: Tensor, mask: Tensor, sequence_index: Tensor | None = None) -> CovarianceStatistics:
        """See ``CovarianceObjective.statistics``."""
        return self._statistics(logprob, advantage, mask, torch.zeros_like(mask))

    def _statistics(self, logprob: Tensor, advantage: Tensor, mask: Tensor, clipped: Tensor) -> CovarianceStatistics:
        means = CovarianceStatistics(*_means(logprob, advantage, mask))
        candidates = (self._candidates(token_covariance(logprob, advantage, mask, means)) & ~clipped).sum()
        probability = self.clip_share * mask.sum() / candidates.clamp(min=1)
        return CovarianceStatistics(means.advantage_mean, means.logprob_mean, drop_probability=probability.clamp(max=1.0))

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """Return the loss and covariance, covariance_selected (share dropped) and the metrics of ``ClipObjective``."""
        log_ratio = inputs.log_ratio()
        ratio = log_ratio.exp()
        advantage = inputs.advantage[:, None].to(ratio.dtype)
        loss = clipped_token_loss(ratio, advantage, self.clip_low, self.clip_high)
        held = ratio.detach().clamp(1 - self.clip_low, 1 + self.clip_high)
        already_clipped = -advantage * held > -advantage * ratio.detach()
        logprob = judged_logprob(inputs)
        statistics = inputs.covariance or self._statistics(logprob, inputs.advantage, inputs.mask, already_clipped)
        covariance = token_covariance(logprob, inputs.advantage, inputs.mask, statistics)
        chance = counter_uniform(inputs.seed, sequence_index(inputs), ratio.shape[1])
        dropped = self._candidates(covariance) & ~already_clipped & (chance < statistics.drop_probability)
        metrics = ratio_metrics(log_ratio, inputs.mask) | clip_metrics(ratio, advantage, inputs.mask, self.clip_low, self.clip_high)
        metrics["covariance"] = masked_mean_metric(covariance, inputs.mask)
        metrics["covariance_selected"] = masked_mean_metric(dropped, inputs.mask)
        return aggregate(torch.where(dropped, torch.zeros_like(loss), loss), inputs, self.aggregation), metrics


@dataclass(frozen=True)
class KLCovObjective:
    """No clip; the tokens of the largest covariance pay for moving away from the old policy.

    Differs from ``ClipObjective`` in that the loss of a token is -r A, unclipped, plus kl_coefficient * |log pi - log pi_old| on
    the ``kl_share`` of tokens with the largest covariance. The penalty has no gradient at r = 1, so nothing is restrained
    in the first optimizer step of a rollout: it takes two or more.

    Source: arXiv 2505.22617 (KL-Cov). Its code selects within a micro-batch by the current log-probability; with
    ``LossInputs.covariance`` exactly k tokens of the whole step are selected by the old one. Of equal covariances the first in the
    rollout are taken.

    Args:
        kl_share: share of all response tokens to penalise, in (0, 1]; 0.002 is 0.2 %. At least one token is.
        kl_coefficient: factor of the penalty, at least 0.
        aggregation: denominator of the loss.
    """

    kl_share: float = 2e-3
    kl_coefficient: float = 1.0
    aggregation: Aggregation = "token_mean"
    least_steps: ClassVar[int] = 2  # optimizer steps on a rollout, without which it is the plain policy gradient

    def __post_init__(self) -> None:
        check_aggregation(self.aggregation)
        if not 0 < self.kl_share <= 1:
            raise ConfigError(f"kl_share: must be above 0 and at most 1, got {self.kl_share}")
        if not 0 <= self.kl_coefficient < float("inf"):
            raise ConfigError(f"kl_coefficient: must be at least 0 and finite, got {self.kl_coefficient}")

    def statistics(self, logprob: Tensor, advantage: Tensor, mask: Tensor, sequence_index: Tensor | None = None) -> CovarianceStatistics:
        """See ``CovarianceObjective.statistics``."""
        means = CovarianceStatistics(*_means(logprob, advantage, mask))
        values = token_covariance(logprob, advantage, mask, means)[mask]
        if not values.numel():
            return means
        index = torch.arange(mask.shape[0], device=mask.device) if sequence_index is None else sequence_index
        order = token_order(index, mask.shape[1])[mask]
        threshold, tie = largest(values, order, max(1, int(self.kl_share * values.numel())))
        return CovarianceStatistics(means.advantage_mean, means.logprob_mean, threshold=threshold, tie=tie)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """Return the loss and covariance, covariance_selected (share penalised), ratio, ratio_max, approx_kl."""
        logprob, index = judged_logprob(inputs), sequence_index(inputs)
        statistics = inputs.covariance or self.statistics(logprob, inputs.advantage, inputs.mask, index)
        log_ratio = inputs.log_ratio()
        loss = -inputs.advantage[:, None].to(log_ratio.dtype) * log_ratio.exp()
        covariance = token_covariance(logprob, inputs.advantage, inputs.mask, statistics)
        selected = is_selected(covariance, token_order(index, covariance.shape[1]), statistics)
        loss = torch.where(selected, loss + self.kl_coefficient * log_ratio.abs(), loss)
        metrics = ratio_metrics(log_ratio, inputs.mask)
        metrics["covariance"] = masked_mean_metric(covariance, inputs.mask)
        metrics["covariance_selected"] = masked_mean_metric(selected & inputs.mask, inputs.mask)
        return aggregate(loss, inputs, self.aggregation), metrics
