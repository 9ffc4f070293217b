"""The clipped token-level objective (PPO, GRPO, Clip-Higher, dual clip), and CISPO, which clips the weight instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from aer_lightning.algorithms.objectives.aggregation import Aggregation, aggregate, check_aggregation
from aer_lightning.algorithms.objectives.entropy import check_quantile, peak_entropy_mask
from aer_lightning.algorithms.objectives.inputs import LossInputs
from aer_lightning.algorithms.objectives.metrics import Metrics, masked_max_metric, masked_mean_metric
from aer_lightning.errors import ConfigError


def check_clip(clip_low: float, clip_high: float) -> None:
    """Refuse clip distances that leave no interval around a ratio of 1.

    Raises:
        ConfigError: names the option.
    """
    if not 0 < clip_low <= 1:
        raise ConfigError(f"clip_low: must be above 0 and at most 1 (ratios are clipped below at 1 - clip_low), got {clip_low}")
    if not 0 < clip_high < float("inf"):
        raise ConfigError(f"clip_high: must be above 0 and finite (ratios are clipped above at 1 + clip_high), got {clip_high}")


def clipped_token_loss(ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A), element by element (PPO, arXiv 1707.06347, the clipped surrogate).

    Args:
        ratio: probability ratio pi / pi_old, any shape.
        advantage: broadcastable to ``ratio``.
        clip_low: distance below 1.
        clip_high: distance above 1.

    Returns:
        The shape of ``ratio``. The gradient is 0 where the clipped branch is the smaller one.
    """
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip_low, 1 + clip_high))


def ratio_metrics(log_ratio: Tensor, mask: Tensor) -> Metrics:
    """Mean and largest ratio to the old policy, and KL(old || current) by the k3 estimator; tokens where ``mask``."""
    ratio = log_ratio.detach().exp()
    return {
        "ratio": masked_mean_metric(ratio, mask),
        "ratio_max": masked_max_metric(ratio, mask),
        "approx_kl": masked_mean_metric(torch.expm1(log_ratio.detach()) - log_ratio.detach(), mask),
    }


def clip_metrics(ratio: Tensor, advantage: Tensor, mask: Tensor, clip_low: float, clip_high: float) -> Metrics:
    """Share of places whose gradient the clip removed: below (A < 0, ratio too small) and above (A > 0, ratio too large)."""
    ratio = ratio.detach()
    return {
        "clip_fraction_low": masked_mean_metric((advantage < 0) & (ratio < 1 - clip_low), mask),
        "clip_fraction_high": masked_mean_metric((advantage > 0) & (ratio > 1 + clip_high), mask),
    }


def clipped_surrogate(
    inputs: LossInputs, advantage: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> tuple[Tensor, Metrics]:
    """The clipped loss of each token and its metrics: what the objectives share that reweight tokens and clip as the plain one does.

    Args:
        inputs: of the micro-batch.
        advantage: [B, 1] or [B, T], in the place of the inputs' own.
        clip_low, clip_high: distances below and above 1.
        dual_clip: see ``ClipObjective``.

    Returns:
        [B, T] losses, not yet masked; clip_fraction_low / _high (and _dual), ratio, ratio_max, approx_kl.
    """
    log_ratio = inputs.log_ratio()
    ratio = log_ratio.exp()
    loss = clipped_token_loss(ratio, advantage, clip_low, clip_high)
    metrics = ratio_metrics(log_ratio, inputs.mask) | clip_metrics(ratio, advantage, inputs.mask, clip_low, clip_high)
    if dual_clip is not None:
        negative = advantage < 0
        loss = torch.where(negative, torch.minimum(loss, -dual_clip * advantage), loss)
        metrics["clip_fraction_dual"] = masked_mean_metric(negative & (ratio.detach() > dual_clip), inputs.mask)
    return loss, metrics


@dataclass(frozen=True)
class ClipObjective:
    """The plain one: PPO's clipped surrogate on token ratios, with group-relative advantages (GRPO).

    Per token -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) with r = pi / pi_old. ``clip_high > clip_low`` is DAPO's
    Clip-Higher. With ``dual_clip`` c, tokens with A < 0 lose no more than -c A, which stops a huge ratio from a negative
    advantage from taking over the step. With ``entropy_quantile`` q the policy loss counts only tokens whose entropy is above the
    q-quantile of their response; the others stay in the denominator.

    Sources: PPO arXiv 1707.06347; GRPO arXiv 2402.03300; Clip-Higher arXiv 2503.14476; dual clip arXiv 1912.09729; the tokens of
    highest entropy alone: arXiv 2506.01939, which takes the quantile (0.8) over the batch. A callback may move ``clip_high`` once a
    rollout: ``ADAPOClip``.

    Args:
        clip_low: distance below 1 at which the ratio is clipped, in (0, 1].
        clip_high: distance above 1 at which the ratio is clipped.
        dual_clip: bound on the ratio where the advantage is negative, above 1; null for none.
        aggregation: denominator of the loss.
        entropy_quantile: share of a response's tokens, those of lowest entropy, without policy loss, in [0, 1); null for all tokens.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    aggregation: Aggregation = "token_mean"
    entropy_quantile: float | None = None
    reads: ClassVar[tuple[str, ...]] = ("clip_high",)

    def __post_init__(self) -> None:
        check_clip(self.clip_low, self.clip_high)
        check_aggregation(self.aggregation)
        if self.entropy_quantile is not None:
            check_quantile(self.entropy_quantile, "entropy_quantile")
        if self.dual_clip is not None and not self.dual_clip > 1 + self.clip_high:
            raise ConfigError(f"dual_clip: must be above 1 + clip_high = {1 + self.clip_high}, or null for none, got {self.dual_clip}")

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """Return the loss and clip_fraction_low / _high (and _dual), ratio, ratio_max, approx_kl."""
        advantage = inputs.advantage[:, None].to(inputs.logprob.dtype)
        loss, metrics = clipped_surrogate(inputs, advantage, self.clip_low, inputs.scalars.get("clip_high", self.clip_high), self.dual_clip)
        if self.entropy_quantile is not None:
            if inputs.entropy is None:
                raise ValueError("entropy_quantile needs LossInputs.entropy")
            kept = peak_entropy_mask(inputs.entropy, inputs.mask, self.entropy_quantile)
            metrics["entropy_selected"] = masked_mean_metric(kept, inputs.mask)
            loss = torch.where(kept, loss, torch.zeros_like(loss))
        return aggregate(loss, inputs, self.aggregation), metrics


@dataclass(frozen=True)
class CISPOObjective:
    """Clips the importance weight, not the update: every token keeps a gradient.

    Per token -sg(clip(r, 1 - clip_low, 1 + clip_high)) A log pi, where sg stops the gradient. ``ClipObjective`` drops the
    gradient of a clipped token; here its weight is bounded and the REINFORCE gradient stays, which keeps rare tokens of
    low old probability in the update.

    Source: MiniMax-M1, arXiv 2506.13585, which sets no lower bound and tunes the upper one; both defaults are ours.

    Args:
        clip_low: distance below 1 at which the weight is clipped, in (0, 1]; null for no lower bound.
        clip_high: distance above 1 at which the weight is clipped.
        aggregation: denominator of the loss.
    """

    clip_low: float | None = None
    clip_high: float = 4.0
    aggregation: Aggregation = "token_mean"

    def __post_init__(self) -> None:
        check_clip(1.0 if self.clip_low is None else self.clip_low, self.clip_high)
        check_aggregation(self.aggregation)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """Return the loss and clip_fraction_low / _high (share of bounded weights), ratio, ratio_max, approx_kl."""
        log_ratio = inputs.log_ratio()
        ratio = log_ratio.detach().exp()
        low = 0.0 if self.clip_low is None else 1 - self.clip_low
        high = 1 + self.clip_high
        logprob = torch.where(inputs.mask, inputs.logprob, torch.zeros_like(inputs.logprob))
        loss = -ratio.clamp(low, high) * inputs.advantage[:, None].to(ratio.dtype) * logprob
        metrics = ratio_metrics(log_ratio, inputs.mask)
        metrics["clip_fraction_low"] = masked_mean_metric(ratio < low, inputs.mask)
        metrics["clip_fraction_high"] = masked_mean_metric(ratio > high, inputs.mask)
        return aggregate(loss, inputs, self.aggregation), metrics
