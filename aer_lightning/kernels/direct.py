"""The direct way for a small vocabulary on a CPU: the logits ``[N, V]`` are smaller than the hidden states, so they are simply kept.

Plain torch with a hand-written backward pass (two passes over the logits instead of eight) and none of the operators' overhead.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from aer_lightning.kernels.partials import LOWEST_EXPONENT, accumulation_dtype

COLUMNS = 64  # a vocabulary up to this size is always small
ELEMENTS = 1 << 16  # and so are logits of which there are no more than this many


def is_small(rows: int, vocabulary: int, device: torch.device) -> bool:
    """Whether logits ``[rows, vocabulary]`` are better kept than computed twice."""
    return device.type == "cpu" and (vocabulary <= COLUMNS or rows * vocabulary <= ELEMENTS)


def logits_token_stats(logits: Tensor, targets: Tensor, temperature: Tensor | float, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `aer_lightning.kernels.logits_token_stats`; `kept` is the mask of the rows that are not ignored, None if none is."""
    if kept is None:
        return _statistics(logits, targets, temperature)
    index = kept.nonzero().squeeze(1)
    return _spread(kept, index, _statistics(logits[index], targets[index], _rows_of(temperature, index)))


def linear_token_stats(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, temperature: Tensor | float, kept: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `aer_lightning.kernels.linear_token_stats`; `kept` as above."""
    if kept is not None:  # before the product, so that nothing of an ignored row reaches the gradient of the weight
        index = kept.nonzero().squeeze(1)
        results = linear_token_stats(hidden[index], weight, targets[index], bias, _rows_of(temperature, index), None)
        return _spread(kept, index, results)
    dtype = accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype))
    disabled = torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()
    with disabled:
        logits = linear(hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    return _statistics(logits, targets, temperature)


def _statistics(logits: Tensor, targets: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    if logits.shape[0] == 0:
        return logits.sum(1, dtype=accumulation_dtype(logits.dtype)), logits.sum(1, dtype=accumulation_dtype(logits.dtype))
    return _Statistics.apply(logits, targets.long(), temperature)


def _rows_of(temperature: Tensor | float, index: Tensor) -> Tensor | float:
    return temperature[index] if isinstance(temperature, Tensor) else temperature


def _spread(kept: Tensor, index: Tensor, results: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    logprob, entropy = (value.new_zeros(kept.shape[0]).index_copy(0, index, value) for value in results)
    return logprob, entropy


class _Statistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
        dtype = accumulation_dtype(logits.dtype)
        inverse: Tensor | float = 1.0 / temperature if not isinstance(temperature, Tensor) else temperature.to(dtype).reciprocal()
        distance = logits.to(dtype)
        distance = distance - distance.amax(1, keepdim=True)
        if isinstance(inverse, Tensor):
            distance *= inverse.unsqueeze(1)
        elif inverse != 1.0:
            distance *= inverse
        exponential = distance.exp()
        total = exponential.sum(1)
        log_sum = total.log()
        logprob = distance.gather(1, targets.unsqueeze(1)).squeeze(1).sub_(log_sum)
        weighted = (distance * exponential).sum(1)
        ctx.poisoned = not math.isfinite(weighted.sum().item())
        if ctx.poisoned:  # 0 * -inf, unless the row was NaN already
            distance = distance.clamp(min=LOWEST_EXPONENT)
            weighted = (distance * exponential).sum(1)
        entropy = torch.addcdiv(log_sum, weighted, total, value=-1.0)
        ctx.save_for_backward(distance, exponential, total, log_sum, entropy, targets, inverse if isinstance(inverse, Tensor) else None)
        ctx.inverse, ctx.dtype = inverse, logits.dtype
        ctx.set_materialize_grads(False)
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, None, None]:  # type: ignore[override]
        distance, exponential, total, log_sum, entropy, targets, row_inverse = ctx.saved_tensors
        inverse = ctx.inverse if row_inverse is None else row_inverse
        at_target = torch.zeros_like(entropy) if grad_logprob is None else grad_logprob * inverse
        # p = e^distance / s: the gradient is (slope * distance + constant) * e^distance / s, and g_lp / T more at the target.
        if grad_entropy is not None:
            slope = grad_entropy * -inverse
            constant = torch.addcmul(-at_target, slope, entropy - log_sum)
            gradient = distance * (slope / total).unsqueeze(1)
            gradient.add_((constant / total).unsqueeze(1)).mul_(exponential)
        else:
            gradient = exponential * (at_target / -total).unsqueeze(1)
        gradient.scatter_add_(1, targets.unsqueeze(1), at_target.unsqueeze(1))
        if ctx.poisoned:  # rows without upstream gradient are exactly 0, also where a logit is NaN
            without = at_target == 0 if grad_entropy is None else (at_target == 0) & (grad_entropy == 0)
            gradient.masked_fill_(without.unsqueeze(1), 0.0)
        return gradient.to(ctx.dtype), None, None
