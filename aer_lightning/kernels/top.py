"""The most probable tokens of each row, for distillation and inspection: without gradient, and without all logits at once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from aer_lightning.errors import ConfigError
from aer_lightning.kernels import api, walk
from aer_lightning.kernels.planning import plan
from aer_lightning.kernels.statistics import product_dtype


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
    values = values.to(lse.dtype) * logit_scale
    if softcap:
        values = softcap * torch.tanh(values / softcap)
    return values / (temperature[:, None] if isinstance(temperature, Tensor) else temperature) - lse[:, None], ids


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
    api._check_linear(hidden, weight, bias, None)
    (n, width), columns, dtype = hidden.shape, weight.shape[0], product_dtype(hidden.dtype, weight.dtype)
    blocks = plan(n, width, columns, dtype, memory_mb, hidden.device, weight_dtype=weight.dtype, gradient=False, top=True, plain=False)
    head = walk.Head(hidden, weight, None, torch.empty(0), 1.0, 0.0, blocks)
    values, ids = hidden.new_empty((n, k), dtype=head.dtypes[1]), torch.empty((n, k), dtype=torch.long, device=hidden.device)
    for rows in walk.spans(n, blocks.scan_rows):
        operand, part = head.hidden_rows(*rows), slice(*rows)
        logits = values.new_empty((rows[1] - rows[0], columns))
        for span in walk.spans(columns, blocks.columns):
            walk.product(logits[:, slice(*span)], operand, head.weight_rows(*span).T)
        if bias is not None:
            logits += bias
        each = walk.rows_of(temperature, *rows)
        values[part], ids[part] = logits_top_logprobs(logits, k, each, softcap=softcap, logit_scale=logit_scale)
    return values, ids


def _check_k(k: int, vocabulary: int) -> None:
    if not 1 <= k <= vocabulary:
        raise ConfigError(f"k: {k} is not in 1 to {vocabulary}, the vocabulary")
