"""The direct way for a small vocabulary on a CPU: the logits ``[N, V]`` are smaller than the hidden states, so they are simply kept.

Plain torch with a hand-written backward pass (two passes over the logits instead of eight) and none of the operators' overhead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aer_lightning.kernels.partials import LOWEST_EXPONENT, accumulation_dtype

COLUMNS = 64  # a vocabulary up to this size is always small
FEW_COLUMNS, ELEMENTS = 512, 1 << 16  # and so is one up to this size with few rows; beyond it torch's log_softmax is not exact enough


def is_small(rows: int, vocabulary: int, device: torch.device) -> bool:
    """Whether logits ``[rows, vocabulary]`` are better kept than computed twice."""
    return device.type == "cpu" and (vocabulary <= COLUMNS or (vocabulary <= FEW_COLUMNS and rows * vocabulary <= ELEMENTS))


def takes(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: Tensor | float) -> bool:
    """Whether arguments are so plain that nothing but their values can be wrong: fp32 on the CPU, a small vocabulary, one temperature.

    In a loop over a tiny model the checks one by one take as long as half of a product.
    """
    if type(hidden) is not Tensor or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    rows, columns = hidden.shape, weight.shape
    return (
        len(rows) == len(columns) == 2
        and 0 < columns[0] <= COLUMNS
        and 0 < rows[1] == columns[1]
        and targets.shape == rows[:1]
        and hidden.dtype is weight.dtype is torch.float32
        and targets.dtype is torch.int64
        and hidden.is_cpu
        and weight.is_cpu
        and targets.is_cpu
        and isinstance(temperature, float)
        and 0 < temperature < math.inf
    )


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
    if hidden.shape[0] == 0:
        return _statistics(_product(hidden, weight, bias), targets, temperature)
    return _LinearStatistics.apply(hidden, weight, bias, targets, temperature)


def _statistics(logits: Tensor, targets: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    if logits.shape[0] == 0:
        return logits.sum(1, dtype=accumulation_dtype(logits.dtype)), logits.sum(1, dtype=accumulation_dtype(logits.dtype))
    return _Statistics.apply(logits, targets, temperature)


def _rows_of(temperature: Tensor | float, index: Tensor) -> Tensor | float:
    return temperature[index] if isinstance(temperature, Tensor) else temperature


def _spread(kept: Tensor, index: Tensor, results: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    logprob, entropy = (value.new_zeros(kept.shape[0]).index_copy(0, index, value) for value in results)
    return logprob, entropy


class _Statistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
        ctx.dtype = logits.dtype
        logprob, entropy, saved = _forward(ctx, *_scaled(logits, temperature), targets)
        ctx.save_for_backward(*saved)
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, None, None]:  # type: ignore[override]
        return _gradient(ctx, ctx.saved_tensors, grad_logprob, grad_entropy).to(ctx.dtype), None, None


class _LinearStatistics(torch.autograd.Function):
    """The product belongs to it: for a tiny model a node of autograd costs as much as the product itself."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        logits = _product(hidden, weight, bias)
        ctx.bias_dtype = None if bias is None else bias.dtype
        scaled, inverse = _scaled(logits, temperature)
        logprob, entropy, saved = _forward(ctx, scaled, inverse, targets, spare=logits)
        ctx.save_for_backward(hidden, weight, *saved)
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # A graph of the gradients is asked for only where grad mode is on; the decorator that refuses to go through it is not free.
        if torch.is_grad_enabled():
            return once_differentiable(_linear_backward)(ctx, grad_logprob, grad_entropy)
        return _linear_backward(ctx, grad_logprob, grad_entropy)


def _product(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return _product(hidden, weight, bias)
    if bias is None and hidden.dtype is weight.dtype is torch.float32:
        return torch.mm(hidden, weight.t())
    dtype = accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype))
    if bias is not None:
        return torch.addmm(_as(bias, dtype), _as(hidden, dtype), _as(weight, dtype).t())
    return torch.mm(_as(hidden, dtype), _as(weight, dtype).t())


def _linear_backward(ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return _linear_backward(ctx, grad_logprob, grad_entropy)
    hidden, weight, *saved = ctx.saved_tensors
    needs_hidden, needs_weight, needs_bias, _, _ = ctx.needs_input_grad
    gradient = _gradient(ctx, saved, grad_logprob, grad_entropy)
    return (
        _as(torch.mm(gradient, _as(weight, gradient.dtype)), hidden.dtype) if needs_hidden else None,
        _as(torch.mm(gradient.t(), _as(hidden, gradient.dtype)), weight.dtype) if needs_weight else None,
        gradient.sum(0).to(ctx.bias_dtype) if needs_bias else None,
        None,
        None,
    )


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype is dtype else tensor.to(dtype)


def _forward(
    ctx: Any, scaled: Tensor, inverse: Tensor | float, targets: Tensor, spare: Tensor | None = None
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """Both results, and what the backward pass needs; `spare` is a tensor of the same shape that may be written over."""
    log_probability = torch.log_softmax(scaled, 1)
    probability = torch.exp(log_probability, out=spare)
    negative_entropy = torch.mul(probability, log_probability).sum(1)
    ctx.poisoned = not math.isfinite(negative_entropy.sum().item())
    if ctx.poisoned:  # 0 * -inf, unless the row was NaN already
        negative_entropy = (probability * log_probability.clamp(min=LOWEST_EXPONENT)).sum(1)
    index = _as(targets, torch.int64).unsqueeze(1)
    ctx.inverse = inverse
    ctx.set_materialize_grads(False)
    saved = (log_probability, probability, negative_entropy, index, inverse if isinstance(inverse, Tensor) else None)
    return log_probability.gather(1, index).squeeze(1), negative_entropy.neg(), saved


def _gradient(ctx: Any, saved: Sequence[Any], grad_logprob: Tensor | None, grad_entropy: Tensor | None) -> Tensor:
    """Gradient of the logits ``[N, V]``."""
    log_probability, probability, negative_entropy, index, row_inverse = saved
    inverse = ctx.inverse if row_inverse is None else row_inverse
    at_target = torch.zeros_like(negative_entropy) if grad_logprob is None else _times(grad_logprob, inverse)
    # -dz = p (g_lp + g_H (l + H)) / T, and g_lp / T less at the target.
    if grad_entropy is None:
        gradient = probability * -at_target.unsqueeze(1)
    else:
        slope = -_times(grad_entropy, inverse)
        log_probability = log_probability.clamp(min=LOWEST_EXPONENT) if ctx.poisoned else log_probability
        gradient = log_probability * slope.unsqueeze(1)
        gradient.sub_(torch.addcmul(at_target, slope, negative_entropy).unsqueeze(1)).mul_(probability)
    gradient.scatter_add_(1, index, at_target.unsqueeze(1))
    if ctx.poisoned:  # rows without upstream gradient are exactly 0, also where a logit is NaN
        without = at_target == 0 if grad_entropy is None else (at_target == 0) & (grad_entropy == 0)
        gradient.masked_fill_(without.unsqueeze(1), 0.0)
    return gradient


def _scaled(logits: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor | float]:
    """Logits over the temperature and the inverse of that. The maximum goes first: an offset of the row cancels before it is rounded."""
    dtype = accumulation_dtype(logits.dtype)
    logits = _as(logits, dtype)
    if not isinstance(temperature, Tensor):
        if temperature == 1.0:
            return logits, 1.0
        return (logits - logits.amax(1, keepdim=True)).mul_(1.0 / temperature), 1.0 / temperature
    inverse = temperature.to(dtype).reciprocal()
    return (logits - logits.amax(1, keepdim=True)).mul_(inverse.unsqueeze(1)), inverse


def _times(values: Tensor, inverse: Tensor | float) -> Tensor:
    return values if isinstance(inverse, float) and inverse == 1.0 else values * inverse
