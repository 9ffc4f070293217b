"""The statistics in plain torch with plain autograd: what every other backend is tested against. Holds several ``[N, V]`` tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from aer_lightning.kernels.partials import accumulation_dtype


def logits_token_stats(
    logits: Tensor, targets: Tensor, temperature: Tensor | float = 1.0, ignore_index: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability of the targets and entropy of ``softmax(logits / temperature)``; shapes as in the entry point of this name."""
    dtype = accumulation_dtype(logits.dtype)
    if isinstance(temperature, Tensor):
        temperature = temperature.to(dtype).unsqueeze(1)
    log_probabilities = torch.log_softmax(logits.to(dtype) / temperature, dim=-1)
    kept = torch.ones_like(targets, dtype=torch.bool) if ignore_index is None else targets != ignore_index
    logprob = log_probabilities.gather(1, targets.where(kept, torch.zeros_like(targets)).unsqueeze(1)).squeeze(1)
    probabilities = log_probabilities.exp()
    # p ln p is 0 where p is, also for ln p = -inf; the inner `where` keeps the NaN out of the gradient as well.
    finite = log_probabilities.where(probabilities != 0, torch.zeros_like(log_probabilities))
    entropy = -(probabilities * finite).sum(-1)
    zero = torch.zeros_like(logprob)
    return logprob.where(kept, zero), entropy.where(kept, zero)


def linear_token_stats(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    temperature: Tensor | float = 1.0,
    ignore_index: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`logits_token_stats` of ``hidden @ weight.T + bias``, the product taken in the accumulation dtype (fp32; fp64 for fp64)."""
    dtype = accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype))
    logits = hidden.to(dtype) @ weight.to(dtype).T
    if bias is not None:
        logits = logits + bias.to(dtype)
    return logits_token_stats(logits, targets, temperature, ignore_index)
