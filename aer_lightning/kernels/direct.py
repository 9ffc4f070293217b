"""The direct way for a small vocabulary on a CPU: the logits ``[N, V]`` are smaller than the hidden states, so they are simply kept.

Plain torch with a hand-written backward pass (two passes over the logits instead of eight) and none of the operators' overhead.
"""

from __future__ import annotations

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
        return _Statistics.apply(logits, targets, temperature)
    index = kept.nonzero().squeeze(1)
    if isinstance(temperature, Tensor):
        temperature = temperature[index]
    results = _Statistics.apply(logits[index], targets[index], temperature)
    return tuple(value.new_zeros(kept.shape[0]).index_copy(0, index, value) for value in results)  # type: ignore[return-value]


def linear_token_stats(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, temperature: Tensor | float, kept: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `aer_lightning.kernels.linear_token_stats`; `kept` as above."""
    dtype = accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype))
    with torch.autocast("cpu", enabled=False):
        logits = linear(hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    return logits_token_stats(logits, targets, temperature, kept)


class _Statistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
        dtype = accumulation_dtype(logits.dtype)
        inverse: Tensor | float = 1.0
        if isinstance(temperature, Tensor):
            inverse = temperature.to(dtype).reciprocal().unsqueeze(1)
        elif temperature != 1.0:
            inverse = 1.0 / temperature
        scaled = logits.to(dtype)
        if isinstance(inverse, Tensor) or inverse != 1.0:
            # The maximum is subtracted first, so that an offset common to the row cancels before it is rounded again.
            scaled = (scaled - scaled.amax(1, keepdim=True)).mul_(inverse) if logits.numel() else scaled
        log_probability = torch.log_softmax(scaled, 1)
        logprob = log_probability.gather(1, targets.long().unsqueeze(1)).squeeze(1)
        probability = log_probability.exp()
        product = probability * log_probability
        entropy = product.sum(1).neg_()
        if bool(entropy.isnan().any()):  # 0 * -inf, unless the row was NaN already
            log_probability = log_probability.clamp(min=LOWEST_EXPONENT)
            entropy = (probability * log_probability).sum(1).neg_()
        ctx.save_for_backward(log_probability, probability, entropy, targets, inverse if isinstance(inverse, Tensor) else None)
        ctx.inverse, ctx.dtype = inverse, logits.dtype
        ctx.set_materialize_grads(False)
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, None, None]:  # type: ignore[override]
        log_probability, probability, entropy, targets, row_inverse = ctx.saved_tensors
        inverse = ctx.inverse if row_inverse is None else row_inverse.squeeze(1)
        constant = torch.zeros_like(entropy) if grad_logprob is None else grad_logprob * inverse
        at_target = constant.unsqueeze(1)
        if grad_entropy is None:
            gradient = probability * -at_target
            without = constant == 0
        else:
            slope = grad_entropy * -inverse
            without = (constant == 0) & (slope == 0)
            gradient = torch.addcmul((slope * entropy - constant).unsqueeze(1), log_probability, slope.unsqueeze(1)).mul_(probability)
        gradient.scatter_add_(1, targets.long().unsqueeze(1), at_target)
        if bool(without.any()):
            gradient.masked_fill_(without.unsqueeze(1), 0.0)  # exactly, also where a logit is NaN
        return gradient.to(ctx.dtype), None, None
