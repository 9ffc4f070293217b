"""The statistics in plain torch with plain autograd: what every other backend is tested against. Holds several ``[N, V]`` tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from aer_lightning.kernels.options import Options
from aer_lightning.kernels.statistics import accumulation_dtype, product_dtype, top_threshold

Results = tuple[Tensor, Tensor, Tensor]


def logits_token_stats(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | float = 1.0,
    ignore_index: int | None = None,
    options: Options = Options("reference"),  # noqa: B008 (frozen)
) -> Results:
    """Log-probability, entropy and log-sum-exp of ``softmax(logits / temperature)``; shapes as in the entry point of this name."""
    dtype = accumulation_dtype(logits.dtype)
    kept = torch.ones_like(targets, dtype=torch.bool) if ignore_index is None else targets != ignore_index
    scaled = logits.to(dtype).where(kept[:, None], 0.0) * options.scale
    if options.softcap:
        scaled = options.softcap * torch.tanh(scaled / options.softcap)
    if isinstance(temperature, Tensor):
        temperature = temperature.to(dtype).where(kept, 1.0).unsqueeze(1)
    log_probabilities = torch.log_softmax(scaled / temperature, dim=-1)
    logprob = log_probabilities.gather(1, targets.where(kept, 0).long().unsqueeze(1)).squeeze(1)
    lse = torch.logsumexp(scaled / temperature, 1)
    if options.top and logits.shape[0]:
        with torch.no_grad():
            outside = log_probabilities < top_threshold(log_probabilities, 1.0, options.share, options.mass)[:, None]
        log_probabilities = torch.log_softmax((scaled / temperature).masked_fill(outside, -torch.inf), dim=-1)
        log_probabilities = log_probabilities + 0 * lse[:, None]  # a NaN outside the top poisons the row as well
    probabilities = log_probabilities.exp()
    # p ln p is 0 where p is, also for ln p = -inf; the inner `where` keeps the NaN out of the gradient as well.
    finite = log_probabilities.where(probabilities != 0, 0.0)
    entropy = -(probabilities * finite).sum(-1)
    return logprob.where(kept, 0.0), entropy.where(kept, 0.0), lse.where(kept, 0.0)


def linear_token_stats(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    temperature: Tensor | float = 1.0,
    ignore_index: int | None = None,
    options: Options = Options("reference"),  # noqa: B008 (frozen)
) -> Results:
    """`logits_token_stats` of ``hidden @ weight.T + bias``: the weight rounded to the dtype of `hidden`, the product in fp32 (or fp64)."""
    dtype = accumulation_dtype(hidden.dtype, weight.dtype)
    if ignore_index is not None:  # a row of NaN would otherwise reach the gradient of the weight, as 0 * NaN
        hidden = hidden.where((targets != ignore_index)[:, None], 0.0)
    logits = hidden.to(dtype) @ weight.to(product_dtype(hidden.dtype, weight.dtype)).to(dtype).T
    if bias is not None:
        logits = logits + bias.to(dtype)
    return logits_token_stats(logits, targets, temperature, ignore_index, options)
