"""The Triton backend: the kernels of `triton_rows` and `triton_products` behind the interface of `chunked`.

Two forms of the forward and of the backward pass over a block of logits:

- "rows": the library's matrix product writes the block in fp32 into the workspace, a row kernel reads it;
- "product": one persistent Triton kernel, product and statistics (or gradient) together, and the logits never leave the registers.

`FORWARD` and `BACKWARD` say which is used. The gradients of hidden states and weight are products of the library in both.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from aer_lightning.kernels import linear
from aer_lightning.kernels.blocks import Blocks
from aer_lightning.kernels.launch import INTERPRETED, ROW_BLOCK, TILE, launch_of
from aer_lightning.kernels.linear import Factors, has_mixed_products
from aer_lightning.kernels.partials import RowStatistics, accumulation_dtype
from aer_lightning.kernels.triton_launch import (
    launch_gradient,
    launch_merge,
    launch_product,
    launch_product_gradient,
    launch_product_statistics,
    launch_statistics,
    splits_of,
)

FORWARD = "rows"
BACKWARD = "rows"
CACHE_TILE = {"rows": ROW_BLOCK, "product": TILE}  # columns that share a maximum in the cache of logits


def logits_partials(logits: Tensor, targets: Tensor, inverse_temperature: Tensor | float) -> Tensor:
    """Compute the partial statistics ``[4, S, N]`` of logits ``[N, V]``, S > 1 where N alone does not fill the device."""
    rows, columns = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    splits, split_columns = splits_of(rows, columns, logits.device)
    partials = logits.new_empty((4, splits, rows), dtype=accumulation_dtype(logits.dtype))
    launch_statistics(partials, logits, targets, inverse_temperature, split_columns, None, partials, 0)
    return partials


def logits_backward(gradient: Tensor, logits: Tensor, targets: Tensor, factors: Factors) -> None:
    """Write the gradient of the logits ``[N, V]`` into `gradient`, which may be the logits themselves."""
    source = logits if logits.stride(1) == 1 else logits.contiguous()
    result = gradient if gradient.stride(1) == 1 else torch.empty_like(source)
    launch_gradient(result, source, None, targets, factors, 0, 0)
    if result is not gradient:
        gradient.copy_(result)


def linear_partials(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    inverse_temperature: Tensor | float,
    workspace: int,
    cache: Tensor,
    cache_maximum: Tensor,
) -> Tensor:
    """See `linear.linear_partials`; `workspace` is the number of bytes of extra memory, of which the cache is a part."""
    engine = _TritonRows(hidden, weight, bias, workspace - cache.numel() * cache.element_size(), False, cache.shape[1] > 0)
    return linear.linear_partials(engine, hidden, weight, bias, targets, inverse_temperature, cache, cache_maximum)


def linear_backward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    factors: Factors,
    cache: Tensor,
    cache_maximum: Tensor,
    workspace: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """See `linear.linear_backward`."""
    engine = _TritonRows(hidden, weight, bias, workspace - cache.numel() * cache.element_size(), True, cache.shape[1] > 0)
    return linear.linear_backward(engine, hidden, weight, bias, targets, factors, cache, cache_maximum, needs)


def allocate_cache(hidden: Tensor, weight: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Make room for the first columns of the logits ``[N, columns]`` as fp16 distances to the maximum of their tile, and for those."""
    tiles = -(-columns // CACHE_TILE[FORWARD])
    rows = hidden.shape[0]
    return hidden.new_empty((rows, columns), dtype=torch.float16), hidden.new_empty((rows, tiles), dtype=torch.float32)


def plan_cache(hidden: Tensor, weight: Tensor, workspace: int) -> int:
    """Decide how many columns are kept for the backward pass: what fits in 3/4 of the workspace, in whole tiles.

    None for inputs of more than 16 bit, whose gradients are expected to be better than fp16 keeps them.
    """
    if torch.promote_types(hidden.dtype, weight.dtype).itemsize > 2:
        return 0
    columns = (workspace * 3 // 4) // max(1, hidden.shape[0] * 2)
    return weight.shape[0] if columns >= weight.shape[0] else columns // CACHE_TILE[FORWARD] * CACHE_TILE[FORWARD]


def merge(partials: Tensor, inverse_temperature: Tensor | float) -> Tensor:
    """Merge partial statistics ``[4, S, N]`` to ``[4, N]``."""
    merged = partials.new_empty((4, partials.shape[2]))
    launch_merge(partials, inverse_temperature, merged.unbind(0), finish=False)
    return merged


def finish(partials: Tensor, inverse_temperature: Tensor | float) -> RowStatistics:
    """Turn partial statistics ``[4, S, N]`` into the results."""
    results = RowStatistics(*(partials.new_empty(partials.shape[2]) for _ in range(4)))
    launch_merge(partials, inverse_temperature, results, finish=True)
    return results


class _TritonRows:
    """Blocks of logits by Triton, see `linear.Rows`."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, workspace: int, backward: bool, cached: bool) -> None:
        half = hidden.dtype == weight.dtype and hidden.dtype in (torch.float16, torch.bfloat16)
        if INTERPRETED and hidden.dtype == torch.bfloat16:
            half = False  # the interpreter's products of bf16 are wrong
        dtype = accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype))
        in_rows = (BACKWARD if backward else FORWARD) == "rows"
        logits_bytes = dtype.itemsize if in_rows else 0
        # Beside the logits: gradients in 16 bit, or (without logits) in their own dtype; the partial statistics of tiles take less than 1.
        gradient_bytes = (2 if half else 0 if in_rows else dtype.itemsize) if backward else int(not in_rows)
        self.blocks = Blocks.plan(hidden, weight, workspace, backward, logits_bytes + gradient_bytes, half)
        if cached and self.blocks.columns < weight.shape[0]:
            tile = CACHE_TILE[FORWARD]
            columns = max(tile, self.blocks.columns // tile * tile)
            self.blocks = replace(self.blocks, columns=columns)
        self.launch = launch_of(hidden, weight, hidden.dtype if half else dtype, bias is not None, cached and not backward)
        self.own_product = half and not has_mixed_products(hidden.device, hidden.dtype)
        elements = self.blocks.rows * self.blocks.columns
        self.logits = hidden.new_empty(elements if in_rows else 0, dtype=dtype)
        if not backward:
            self.gradient = self.logits
        elif half or not in_rows:
            self.gradient = hidden.new_empty(elements, dtype=hidden.dtype if half else dtype)
        else:
            self.gradient = self.logits

    def merge(self, partials: Tensor, inverse_temperature: Tensor | float) -> Tensor:
        return merge(partials, inverse_temperature)

    def product(self, out: Tensor, left: Tensor, right: Tensor, accumulate: bool = False) -> None:
        if self.own_product and left.dtype != out.dtype:
            launch_product(out, left, right, accumulate, self.launch)
        else:
            linear.product(out, left, right, accumulate)

    def project_statistics(
        self,
        partials: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        first: int,
        inverse_temperature: Tensor | float,
        cache: Tensor | None,
        cache_maximum: Tensor,
    ) -> None:
        rows, columns = hidden.shape[0], weight.shape[0]
        first_tile = first // CACHE_TILE[FORWARD]
        targets = targets - first
        if FORWARD == "product":
            tiles = -(-columns // self.launch.columns)
            tile_partials = partials.new_empty((4, tiles, rows))
            launch_product_statistics(
                tile_partials, hidden, weight, bias, targets, inverse_temperature, cache, cache_maximum, first_tile, self.launch
            )
        else:
            logits = self._project(hidden, weight, bias)
            splits, split_columns = splits_of(rows, columns, hidden.device)
            tile_partials = partials.unsqueeze(1) if splits == 1 else partials.new_empty((4, splits, rows))
            launch_statistics(tile_partials, logits, targets, inverse_temperature, split_columns, cache, cache_maximum, first_tile)
            if splits == 1:
                return
        launch_merge(tile_partials, inverse_temperature, partials.unbind(0), finish=False)

    def project_gradient(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, first: int, factors: Factors
    ) -> Tensor:
        gradient = _view(self.gradient, (hidden.shape[0], weight.shape[0]))
        targets = targets - first
        if BACKWARD == "product":
            launch_product_gradient(gradient, hidden, weight, bias, targets, factors, self.launch)
        else:
            launch_gradient(gradient, self._project(hidden, weight, bias), None, targets, factors, 0, 0)
        return gradient

    def cached_gradient(self, cache: Tensor, cache_maximum: Tensor, targets: Tensor, first: int, factors: Factors) -> Tensor:
        gradient = _view(self.gradient, (cache.shape[0], cache.shape[1]))
        tile = CACHE_TILE[FORWARD]
        launch_gradient(gradient, cache, cache_maximum, targets - first, factors, first // tile, tile)
        return gradient

    def _project(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        logits = _view(self.logits, (hidden.shape[0], weight.shape[0]))
        self.product(logits, hidden, weight.T)
        if bias is not None:
            logits += bias
        return logits


def _view(buffer: Tensor, shape: tuple[int, int]) -> Tensor:
    return buffer[: shape[0] * shape[1]].view(shape)
