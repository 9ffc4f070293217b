"""The most probable tokens of each row, for distillation and inspection: without gradient, and without all logits at once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from aer_lightning.errors import ConfigError
from aer_lightning.kernels import api
from aer_lightning.kernels.planning import plan
from aer_lightning.kernels.walk import product, spans


@torch.no_grad()
def logits_top_logprobs(
    logits: Tensor, k: int, temperature: Tensor | float = 1.0, *, softcap: float | None = None, logit_scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities ``[N, k]`` of the k most probable tokens of each row of logits ``[N, V]``, most probable first, and their ids.

    Raises:
        ConfigError: k is not in 1 to V; the other options as in `logits_token_stats`.
    """
    _check_k(k, logits.shape[-1])
    values, ids = logits.topk(k, dim=1)
    zeros = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
    options = {"softcap": softcap, "logit_scale": logit_scale, "logprob_only": True, "return_lse": True}
    lse = api.logits_token_stats(logits, zeros, temperature, **options)[2]  # type: ignore[arg-type]
    return _logprobs(values, lse, temperature, softcap, logit_scale), ids


@torch.no_grad()
def linear_top_logprobs(
    hidden: Tensor,
    weight: Tensor,
    k: int,
    bias: Tensor | None = None,
    temperature: Tensor | float = 1.0,
    memory_mb: float | Literal["auto"] = "auto",
    *,
    softcap: float | None = None,
    logit_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """`logits_top_logprobs` of ``hidden @ weight.T + bias``, ``[N, D]`` and ``[V, D]``, block by block in the dtype of `hidden`.

    Raises:
        ConfigError: as in `linear_token_stats`; k is not in 1 to V.
    """
    _check_k(k, weight.shape[0])
    zeros = torch.zeros(hidden.shape[0], dtype=torch.long, device=hidden.device)
    options = {"softcap": softcap, "logit_scale": logit_scale, "logprob_only": True, "return_lse": True}
    lse = api.linear_token_stats(hidden, weight, zeros, bias, temperature, "auto", memory_mb, **options)[2]  # type: ignore[arg-type]
    rows, width, columns = *hidden.shape, weight.shape[0]
    blocks = plan(rows, width, columns, hidden.dtype, memory_mb, hidden.device, weight_dtype=weight.dtype, gradient=False, plain=False)
    values, ids = lse.new_empty((hidden.shape[0], k)), torch.empty((hidden.shape[0], k), dtype=torch.long, device=hidden.device)
    operand = hidden.dtype if blocks.itemsize == 2 else lse.dtype
    for start, stop in spans(hidden.shape[0], blocks.rows):
        best, where = lse.new_empty((stop - start, 0)), ids[start:stop, :0]
        operands = hidden[start:stop].to(operand)
        for first, last in spans(weight.shape[0], blocks.columns):
            logits = lse.new_empty((stop - start, last - first))
            product(logits, operands, weight[first:last].to(hidden.dtype).to(operand).T)
            if bias is not None:
                logits += bias[first:last]
            found = logits.topk(min(k, last - first), dim=1)
            best, where = torch.cat((best, found.values), 1), torch.cat((where, found.indices + first), 1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            where = where.gather(1, order)
        values[start:stop], ids[start:stop] = best, where
    return _logprobs(values, lse, temperature, softcap, logit_scale), ids


def _logprobs(values: Tensor, lse: Tensor, temperature: Tensor | float, softcap: float | None, scale: float) -> Tensor:
    values = values.to(lse.dtype) * scale
    if softcap:
        values = softcap * torch.tanh(values / softcap)
    return values / (temperature[:, None] if isinstance(temperature, Tensor) else temperature) - lse[:, None]


def _check_k(k: int, vocabulary: int) -> None:
    if not 1 <= k <= vocabulary:
        raise ConfigError(f"k: {k} is not in 1 to {vocabulary}, the vocabulary")
