"""One ratio for a whole response: GSPO, and GMPO, which clips its factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aer_lightning.algorithms.objectives.aggregation import Aggregation, aggregate, check_aggregation
from aer_lightning.algorithms.objectives.clip import check_clip, clip_metrics, clipped_token_loss, ratio_metrics
from aer_lightning.algorithms.objectives.inputs import LossInputs, bounded
from aer_lightning.algorithms.objectives.metrics import Metrics, masked_max_metric, masked_mean_metric
from aer_lightning.errors import ConfigError


@dataclass(frozen=True)
class GSPOObjective:
    """Clips a sequence ratio instead of token ratios, because the reward belongs to the whole response.

    s_i = exp(mean_t log(pi / pi_old)), the geometric mean of the token ratios, and per response
    -min(s A, clip(s, 1 - clip_low, 1 + clip_high) A). A clipped response loses the gradient of all its tokens at once. As
    s_i stays much nearer to 1 than a token's ratio does, the clip range is some hundred times narrower than the plain one's.

    Source: GSPO, arXiv 2507.18071 (objective and clip range).

    Args:
        clip_low: distance below 1 at which the sequence ratio is clipped, in (0, 1].
        clip_high: distance above 1 at which the sequence ratio is clipped.
        aggregation: denominator of the loss; the paper's is sequence_mean_token_mean, where a response counts once.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4
    aggregation: Aggregation = "sequence_mean_token_mean"

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high)
        check_aggregation(self.aggregation)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """Return the loss and clip_fraction_low / _high (share of responses), sequence_ratio(_max), ratio, ratio_max, approx_kl."""
        log_ratio = inputs.raw_log_ratio()
        lengths = inputs.mask.sum(-1)
        sequence_ratio = bounded(log_ratio.sum(-1) / lengths.clamp(min=1)).exp()
        advantage = inputs.advantage.to(sequence_ratio.dtype)
        loss = clipped_token_loss(sequence_ratio, advantage, self.clip_low, self.clip_high)
        present = lengths > 0
        metrics = ratio_metrics(bounded(log_ratio), inputs.mask) | clip_metrics(
            sequence_ratio, advantage, present, self.clip_low, self.clip_high
        )
        metrics["sequence_ratio"] = masked_mean_metric(sequence_ratio, present)
        metrics["sequence_ratio_max"] = masked_max_metric(sequence_ratio, present)
        return aggregate(loss[:, None].expand_as(log_ratio), inputs, self.aggregation), metrics


@dataclass(frozen=True)
class GMPOObjective:
    """The geometric mean of token ratios that are clipped one by one, in log space and on the side that the advantage pushes to.

    With d_t = log(pi / pi_old): -A exp(mean_t c_t), c_t = min(d_t, clip_high) where A > 0 and max(d_t, -clip_low) where A < 0.
    Differs from ``GSPOObjective`` in that a clipped token loses its own gradient and not that of the whole response.

    Source: GMPO, arXiv 2507.20673, with its clip range (e^-0.4, e^0.4).

    Args:
        clip_low: nat below 0 at which a token's log-ratio is clipped, above 0.
        clip_high: nat above 0 at which it is clipped.
        aggregation: denominator of the loss; the source's is sequence_mean_token_mean, where a response counts once.
    """

    clip_low: float = 0.4
    clip_high: float = 0.4
    aggregation: Aggregation = "sequence_mean_token_mean"

    def __post_init__(self) -> None:
        check_aggregation(self.aggregation)
        for name in ("clip_low", "clip_high"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: must be above 0 nat and finite, got {getattr(self, name)}")

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """Return the loss and clip_fraction_low / _high (share of tokens), sequence_ratio(_max), ratio, ratio_max, approx_kl."""
        log_ratio = inputs.raw_log_ratio()
        advantage = inputs.advantage.to(log_ratio.dtype)
        positive = (advantage > 0)[:, None]
        clipped = torch.where(positive, log_ratio.clamp(max=self.clip_high), log_ratio.clamp(min=-self.clip_low))
        lengths = inputs.mask.sum(-1)
        sequence_ratio = bounded(clipped.sum(-1) / lengths.clamp(min=1)).exp()
        loss = (-advantage * sequence_ratio)[:, None].expand_as(log_ratio)
        metrics = ratio_metrics(bounded(log_ratio), inputs.mask)
        cut = (clipped != log_ratio) & (advantage != 0)[:, None]
        metrics["clip_fraction_low"] = masked_mean_metric(cut & ~positive, inputs.mask)
        metrics["clip_fraction_high"] = masked_mean_metric(cut & positive, inputs.mask)
        metrics["sequence_ratio"] = masked_mean_metric(sequence_ratio, lengths > 0)
        metrics["sequence_ratio_max"] = masked_max_metric(sequence_ratio, lengths > 0)
        return aggregate(loss, inputs, self.aggregation), metrics
