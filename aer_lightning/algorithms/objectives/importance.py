"""Importance weights between the engine that sampled (behaviour) and the trainer's copy of the same policy.

Both should be the same distribution, and are not quite: kernels, precision and batch shapes differ, and a stale engine differs a lot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from aer_lightning.algorithms.objectives.inputs import LossInputs, bounded, masked_difference
from aer_lightning.algorithms.objectives.metrics import Metrics, masked_max_metric, masked_mean_metric
from aer_lightning.errors import ConfigError

ImportanceMode = Literal["truncate", "mask"]
ImportanceLevel = Literal["token", "sequence"]


def mismatch_metrics(old_logprob: Tensor, behaviour_logprob: Tensor, mask: Tensor) -> Metrics:
    """How far the trainer's log-probabilities are from the engine's, over tokens that the engine sampled.

    With d = log pi_trainer - log pi_engine: ``mismatch_abs`` mean |d|, ``mismatch_kl_k1`` mean(-d) and ``mismatch_kl_k3``
    mean(exp(d) - 1 - d), both estimates of KL(engine || trainer) in nat, ``mismatch_ratio_max`` the largest exp(d).

    Args:
        old_logprob: [B, T] the trainer's, when the rollout was scored.
        behaviour_logprob: [B, T] the engine's.
        mask: [B, T] bool of response tokens.
    """
    difference = bounded(masked_difference(old_logprob.detach(), behaviour_logprob.detach(), mask))
    return {
        "mismatch_abs": masked_mean_metric(difference.abs(), mask),
        "mismatch_kl_k1": masked_mean_metric(-difference, mask),
        "mismatch_kl_k3": masked_mean_metric(torch.expm1(difference) - difference, mask),
        "mismatch_ratio_max": masked_max_metric(difference.exp(), mask),
    }


@dataclass(frozen=True)
class ImportanceWeights:
    """Factor pi_trainer / pi_engine of each token's policy loss, bounded, without gradient.

    It corrects the expectation for tokens having been drawn from the engine's distribution. It multiplies beside the ratio
    pi / pi_old of the objective, which is the trainer's own, so that the clip range keeps its meaning.

    * ``truncate``: min(w, cap), and max(w, low) if given: little bias, bounded variance.
    * ``mask``: w where low <= w <= cap, else 0: tokens on which both disagree do not train.

    ``token`` bounds each token's ratio; ``sequence`` bounds the product over the response and gives it to all its tokens:
    unbiased before bounding, and of a variance that grows with length. The sum of the log-ratios is what is held within +-20 nat, not
    each of them: (-30, +25) gives exp(-5).

    Sources: truncated importance sampling, Ionides 2008 (J. Comput. Graph. Stat. 17); its use between engine and trainer:
    F. Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"; masking: IcePop,
    Ling Team 2025, "Small Leak Can Sink a Great Ship".

    Args:
        mode: truncate, mask, or null to measure only.
        level: token or sequence.
        cap: upper bound, at least 1.
        low: lower bound, in [0, 1]; null for none.
    """

    mode: ImportanceMode | None = "truncate"
    level: ImportanceLevel = "token"
    cap: float = 2.0
    low: float | None = None

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in get_args(ImportanceMode):
            raise ConfigError(f"mode: importance weights are truncate, mask or null, got {self.mode!r}")
        if self.level not in get_args(ImportanceLevel):
            raise ConfigError(f"level: importance weights are bounded per token or sequence, got {self.level!r}")
        if not 1 <= self.cap < float("inf"):
            raise ConfigError(f"cap: the upper bound of importance weights must be at least 1 and finite, got {self.cap}")
        if self.low is not None and not 0 <= self.low <= 1:
            raise ConfigError(f"low: the lower bound of importance weights must be from 0 to 1, or null for none, got {self.low}")

    def __call__(self, old_logprob: Tensor, behaviour_logprob: Tensor, mask: Tensor) -> tuple[Tensor | None, Metrics]:
        """Weights and how much they had to correct.

        Args:
            old_logprob: [B, T] the trainer's, when the rollout was scored.
            behaviour_logprob: [B, T] the engine's.
            mask: [B, T] bool of response tokens.

        Returns:
            ([B, T] weights, or None if ``mode`` is null; metrics of ``mismatch_metrics`` with ``importance_clipped``, the share of
            tokens (or responses) out of bounds, and the moments of the unbounded weights, from which ``finish_metrics``
            makes ``importance_ess``).
        """
        difference = masked_difference(old_logprob.detach(), behaviour_logprob.detach(), mask)
        if self.level == "sequence":
            present = mask.any(-1, keepdim=True)
            raw = bounded(difference.sum(-1, keepdim=True)).exp()
        else:
            present = mask
            raw = bounded(difference).exp()
        low = 0.0 if self.low is None else self.low
        outside = (raw > self.cap) | (raw < low)
        metrics = mismatch_metrics(old_logprob, behaviour_logprob, mask)
        metrics["importance_clipped"] = masked_mean_metric(outside, present)
        metrics["importance_weight"] = masked_mean_metric(raw, present)
        metrics["importance_weight_squared"] = masked_mean_metric(raw.square(), present)
        if self.mode is None:
            return None, metrics
        weight = raw.clamp(low, self.cap) if self.mode == "truncate" else torch.where(outside, torch.zeros_like(raw), raw)
        return weight.expand_as(difference), metrics

    def apply(self, inputs: LossInputs) -> tuple[LossInputs, Metrics]:
        """Return ``inputs`` with ``token_weight`` set from its behaviour log-probabilities; unchanged, without metrics, if it has none."""
        if inputs.behaviour_logprob is None:
            return inputs, {}
        weight, metrics = self(inputs.old_logprob, inputs.behaviour_logprob, inputs.mask)
        return replace(inputs, token_weight=weight), metrics
