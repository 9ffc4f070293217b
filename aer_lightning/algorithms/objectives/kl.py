"""Estimators of the KL divergence to a reference, in the loss or in the reward."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from aer_lightning.algorithms.objectives.aggregation import Aggregation, aggregate
from aer_lightning.algorithms.objectives.inputs import MAX_LOG_RATIO, LossInputs, masked_difference
from aer_lightning.algorithms.objectives.metrics import Metrics, masked_mean_metric
from aer_lightning.errors import ConfigError

KLEstimator = Literal["k1", "k2", "k3"]


def kl_penalty(logprob: Tensor, reference_logprob: Tensor, estimator: KLEstimator = "k3") -> Tensor:
    """Per-token estimate of KL(pi || pi_ref) from tokens sampled from pi.

    With d = log pi - log pi_ref:

    * ``k1`` = d: unbiased, of high variance, can be negative. **As a loss its expected gradient is 0** (the score function has
      mean 0), so it regularises nothing; in the reward it is the right one.
    * ``k2`` = d^2 / 2: biased value, never negative. Its gradient d grad(log pi) is the unbiased gradient of the KL.
    * ``k3`` = exp(-d) - 1 + d: unbiased and never negative. Its gradient (1 - exp(-d)) grad(log pi) estimates the gradient
      of the *other* direction, KL(pi_ref || pi), and agrees with k2's to first order near pi = pi_ref. Beyond d = -20 its
      exponential goes on as the straight line that touches it there: finite, and with a gradient that still points back.

    Source: J. Schulman, "Approximating KL Divergence" (2020), where the names come from; k3 in the loss: arXiv 2402.03300.

    Args:
        logprob: log pi, any shape, nat.
        reference_logprob: log pi_ref, the same shape.
        estimator: k1, k2 or k3.

    Returns:
        The shape of ``logprob``, in nat; differentiable in ``logprob``.
    """
    difference = logprob - reference_logprob
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference.square()
    if estimator == "k3":
        held = (-difference).clamp(max=MAX_LOG_RATIO)
        beyond = (-difference - MAX_LOG_RATIO).clamp(min=0)
        return torch.expm1(held) + beyond * math.exp(MAX_LOG_RATIO) + difference
    raise ConfigError(f"kl_estimator: must be one of {', '.join(get_args(KLEstimator))}, got {estimator!r}")


def kl_loss(inputs: LossInputs, estimator: KLEstimator = "k3", aggregation: Aggregation = "token_mean") -> tuple[Tensor, Metrics]:
    """KL to the reference as a loss term, to be multiplied by its weight and added. Importance weights do not apply to it.

    Args:
        inputs: with ``reference_logprob``.
        estimator: see ``kl_penalty`` for what each gradient is.
        aggregation: denominator; the policy loss's own keeps the weight's meaning.

    Returns:
        (scalar with gradient, metrics with ``reference_kl``, the mean over tokens in nat).

    Raises:
        ValueError: there is no ``reference_logprob``.
    """
    if inputs.reference_logprob is None:
        raise ValueError("kl_loss needs reference_logprob: load the reference policy when the KL weight is not 0")
    difference = masked_difference(inputs.logprob, inputs.reference_logprob, inputs.mask)
    values = kl_penalty(difference, torch.zeros_like(difference), estimator)
    loss = aggregate(values, replace(inputs, token_weight=None), aggregation)
    return loss, {"reference_kl": masked_mean_metric(values, inputs.mask)}


def kl_penalised_rewards(
    rewards: Tensor, logprob: Tensor, reference_logprob: Tensor, mask: Tensor, weight: float, estimator: KLEstimator = "k1"
) -> Tensor:
    """R_i = r_i - weight * sum_t kl_it: the KL penalty in the reward, no gradient. ``k1`` gives the KL's own policy gradient.

    Args:
        rewards: [B].
        logprob: [B, T] under the policy that sampled (the old one), nat.
        reference_logprob: [B, T].
        mask: [B, T] bool of response tokens.
        weight: factor of the KL, at least 0.
        estimator: k1, k2 or k3.

    Returns:
        [B] rewards, detached.
    """
    if weight < 0:
        raise ConfigError(f"kl_weight: must be at least 0, got {weight}")
    difference = masked_difference(logprob.detach(), reference_logprob.detach(), mask)
    return rewards - weight * kl_penalty(difference, torch.zeros_like(difference), estimator).sum(-1)
