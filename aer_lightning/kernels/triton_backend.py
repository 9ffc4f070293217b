"""The Triton backend: row kernels on blocks that the library's product writes (``rows``), or product kernels (``product``)."""

from __future__ import annotations

import torch
from torch import Tensor

from aer_lightning.kernels import walk
from aer_lightning.kernels.planning import device_of
from aer_lightning.kernels.statistics import accumulation_dtype, merge
from aer_lightning.kernels.triton_common import with_unit_stride
from aer_lightning.kernels.triton_gradient import launch_gradient
from aer_lightning.kernels.triton_product import launch_product_gradient, launch_product_statistics
from aer_lightning.kernels.triton_statistics import as_tensor, block_of, launch_statistics, splits_of
from aer_lightning.kernels.triton_threshold import launch_threshold
from aer_lightning.kernels.walk import Block, Head, rows_of


def logits_statistics(
    logits: Tensor, targets: Tensor, inverse: Tensor | float, squash: float, entropy: bool, top: tuple[float, float] | None
) -> tuple[Tensor, Tensor]:
    """Partial statistics of logits ``[N, V]``, as `walk.forward` gives those of a product."""
    out = logits.new_empty((7 if top else 4, logits.shape[0]), dtype=accumulation_dtype(logits.dtype))
    processors, block = device_of(logits.device, interpreted=True).processors, block_of(logits.shape[1])
    inverse, shift = as_tensor(inverse, out), _squash(squash, out)
    _statistics(out, with_unit_stride(logits), None, targets, inverse, shift, None, entropy, top, processors, block)
    return out[:4], out[4:]


def logits_gradient(gradient: Tensor, logits: Tensor, targets: Tensor, factors: Tensor, squash: float) -> None:
    """Write the gradient of logits ``[N, V]`` into `gradient`, which may be the logits themselves."""
    source = with_unit_stride(logits)
    result = gradient if gradient.stride(1) == 1 else torch.empty_like(source)
    launch_gradient(result, source, None, None, targets, _squash(squash, factors), factors, block_of(logits.shape[1]))
    if result is not gradient:
        gradient.copy_(result)


class TritonEngine:
    """See `walk.Engine`."""

    def __init__(self, head: Head, entropy: bool, backward: bool) -> None:
        self.plan, self.entropy = head.plan, entropy
        self.block = head.plan.tile[1] if head.plan.cached else block_of(head.weight.shape[0])
        self.operand, self.full = head.dtypes
        like = head.hidden.new_empty(0, dtype=self.full)
        self.inverse, self.squash = as_tensor(head.inverse, like), _squash(head.squash, like)
        # Rows begin at whole tiles, or at multiples of 64: 16 bytes a load, and no odd leading dimension for the library's products.
        unit = self.plan.tile[1] if self.plan.form == "product" else 64
        rows = min(self.plan.rows, head.rows)
        self.width = -(-min(self.plan.columns, head.weight.shape[0]) // unit) * unit
        in_rows = self.plan.form == "rows"
        needs_logits = in_rows and not (backward and self.plan.cached) and not (self.plan.scan_rows and not backward)
        self.logits = like.new_empty((rows, self.width) if needs_logits else (0, 0))
        self.result = self.logits
        if backward and not (in_rows and (self.operand == self.full)):
            self.result = like.new_empty((rows, self.width), dtype=self.operand)

    def statistics(self, block: Block, out: Tensor, top: tuple[float, float] | None) -> None:
        """See `walk.Engine`."""
        inverse = self.inverse if isinstance(block.inverse, float) else block.inverse
        if self.plan.form == "product":
            tiles = -(-block.weight.shape[0] // self.plan.tile[1])
            partials = out.new_empty((4, tiles, block.hidden.shape[0]))
            launch_product_statistics(
                partials, block.hidden, block.weight, block.bias, block.targets, as_tensor(inverse, out), self.entropy, self.plan
            )
            out[:] = merge(partials, rows_of(inverse, 0, block.hidden.shape[0]))
            return
        cache = None
        if block.cache is not None and block.maximum is not None and block.maximum.shape[1]:
            cache = block.cache.view(torch.float16), block.maximum, block.first // self.plan.tile[1]
        logits = self._project(block)
        bias = None if block.bias is None else block.bias.contiguous()
        _statistics(
            out, logits, bias, block.targets, inverse, self.squash, cache, self.entropy, top, self.plan.device.processors, self.block
        )

    def gradient(self, block: Block, factors: Tensor, computed: bool) -> Tensor:
        """See `walk.Engine`."""
        bias = None if block.bias is None else block.bias.contiguous()
        if not computed and block.cache is not None:
            half = block.maximum is not None and block.maximum.shape[1] > 0
            source = block.cache.view(torch.float16) if half else block.cache
            maximum, first_tile = (block.maximum, block.first // self.plan.tile[1]) if half else (None, 0)
            launch_gradient(block.cache, source, maximum, bias, block.targets, self.squash, factors, self.block, first_tile)
            return block.cache
        result = self._buffer(self.result, block)
        if self.plan.form == "product":
            launch_product_gradient(result, block.hidden, block.weight, bias, block.targets, factors, self.plan)
        else:
            launch_gradient(result, self._project(block), None, bias, block.targets, self.squash, factors, self.block)
        return result

    def _project(self, block: Block) -> Tensor:
        if block.logits is not None:
            if block.cache is not None and block.cache.dtype == self.full:
                block.cache.copy_(block.logits)
            return block.logits
        in_cache = block.cache is not None and block.cache.dtype == self.full
        logits = block.cache if in_cache else self._buffer(self.logits, block)
        assert logits is not None
        walk.product(logits, block.hidden, block.weight.T)
        return logits

    def _buffer(self, buffer: Tensor, block: Block) -> Tensor:
        rows, columns = block.hidden.shape[0], block.weight.shape[0]
        if rows > buffer.shape[0] or columns > buffer.shape[1]:  # a whole cache that is spent: the plan's blocks are for that cache
            return buffer.new_empty((rows, -(-columns // 64) * 64))[:, :columns]
        return buffer[:rows, :columns]


engine = TritonEngine


def _statistics(
    out: Tensor, logits: Tensor, bias: Tensor | None, targets: Tensor, inverse: Tensor, squash: Tensor | None,
    cache: tuple[Tensor, Tensor, int] | None, entropy: bool, top: tuple[float, float] | None, processors: int, block: int,
) -> None:  # fmt: skip
    rows, columns = logits.shape
    if top:
        mass = out.new_full((1,), top[1]) if top[1] < 1 else None
        launch_threshold(out[4], logits, bias, inverse, squash, top[0], mass)
        launch_statistics(out.unsqueeze(1), logits, bias, targets, inverse, squash, out[4], -(-columns // block), cache, entropy, block)
        return
    splits, split_blocks = splits_of(rows, -(-columns // block), processors)
    partials = out.unsqueeze(1) if splits == 1 else out.new_empty((4, splits, rows))
    launch_statistics(partials, logits, bias, targets, inverse, squash, None, split_blocks, cache, entropy, block)
    if splits > 1:
        out[:] = merge(partials, inverse)


def _squash(value: float, like: Tensor) -> Tensor | None:
    return as_tensor(value, like) if value else None
