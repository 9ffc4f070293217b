"""Partial softmax statistics of a row of logits, and how they are merged.

For one block of the vocabulary and logits z at temperature T, with ``l = (z - m) / T``::

    m = max z        s = sum e^l        b = sum l e^l        z_y = logit of the target (0 where the block does not hold it)

Two blocks merge at ``m' = max(m1, m2)``: with ``d = (m - m') / T`` and ``a = e^d`` each gives ``s <- a s`` and ``b <- a (b + d s)``,
which then add. ``logprob = (z_y - m) / T - ln s`` and ``entropy = ln s - b / s``. Everything is a difference to the maximum, so an
offset that is common to a row cancels before it is rounded; ``m`` and ``ln s`` are kept apart for the same reason (their sum, the
usual log-sum-exp, loses 2e-3 nat at an offset of 1e4).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NEGATIVE_INFINITY = float("-inf")
LOWEST_EXPONENT = -1e30  # stands in for -inf where it would meet a probability of 0; e^x is 0 either way


class RowStatistics(NamedTuple):
    """What the backward pass needs of each row, and the results. All ``[N]``, in the accumulation dtype, in nat."""

    logprob: Tensor
    entropy: Tensor
    maximum: Tensor
    log_sum: Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp64 for fp64 inputs, otherwise fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def finite_maximum(maximum: Tensor) -> Tensor:
    """Replace a maximum of -inf (a block without a finite logit) by 0, so that ``z - m`` is -inf there and not NaN."""
    return torch.where(maximum == NEGATIVE_INFINITY, torch.zeros_like(maximum), maximum)


def merge(partials: Tensor, inverse_temperature: Tensor | float) -> Tensor:
    """Merge partial statistics ``[4, S, N]`` (m, s, b, z_y) of S blocks to ``[4, N]``."""
    maximum, total, weighted, target = partials.unbind(0)
    merged = maximum.amax(0)
    distance = (maximum - finite_maximum(merged)) * inverse_temperature
    # A block without a finite logit has s = b = 0: any finite distance will do, and -inf would make 0 * -inf = NaN of it.
    distance = torch.where(maximum == NEGATIVE_INFINITY, torch.zeros_like(distance), distance)
    scale = distance.exp()
    return torch.stack((merged, (scale * total).sum(0), (scale * (weighted + distance * total)).sum(0), target.sum(0)))


def finish(partials: Tensor, inverse_temperature: Tensor | float) -> RowStatistics:
    """Turn partial statistics ``[4, S, N]`` into the results; a row of -inf alone, or one with a NaN, gives NaN, as in torch."""
    merged = partials[:, 0] if partials.shape[1] == 1 else merge(partials, inverse_temperature)
    maximum, total, weighted, target = merged.unbind(0)
    log_sum = total.log()
    # Rounding can leave (z_y - m) / T - ln s at a few 1e-8 above 0 when p -> 1; a log-probability never is.
    logprob = ((target - maximum) * inverse_temperature - log_sum).clamp(max=0.0)
    # The entropy is at least 0 too: ln s >= 0 because the maximum contributes e^0, and b <= 0.
    return RowStatistics(logprob, log_sum - weighted / total, maximum.clone(), log_sum)
