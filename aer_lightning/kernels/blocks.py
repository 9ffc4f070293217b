"""How the ``[N, V]`` plane of the logits is cut into blocks that fit in a workspace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from aer_lightning.kernels.partials import accumulation_dtype

CPU_BLOCK_ELEMENTS = 1 << 21  # 8 MiB of fp32: two such buffers fit in the last-level cache of a small server
CPU_BLOCK_ROWS = 1 << 11
GPU_BLOCK_ROWS = 1 << 15
MERGED_AT_ONCE = 64
PRODUCT_TILE = (128, 256)  # what a matrix product on a GPU is cut into, about


@dataclass(frozen=True)
class Blocks:
    """The rows and columns of a block, and in which dtypes it is computed."""

    rows: int
    columns: int
    dtype: torch.dtype  # of the accumulators
    half: bool  # products of 16-bit operands with fp32 results, which only CUDA has
    slots: int  # how many blocks' statistics are kept until they are merged

    @classmethod
    def plan(cls, hidden: Tensor, weight: Tensor, workspace: int, backward: bool, element_bytes: int, half: bool) -> Blocks:
        """Choose the largest blocks that the workspace (bytes) allows; on a CPU, none larger than its cache.

        `element_bytes` is the scratch memory that one logit of a block takes.
        """
        rows, columns, width = hidden.shape[0], weight.shape[0], hidden.shape[1]
        slots = 0
        if not backward:
            statistics_bytes = max(1, 4 * 8 * rows)  # and about twice that while they are merged
            slots = min(MERGED_AT_ONCE, max(2, workspace // 16 // statistics_bytes))
            workspace -= 3 * slots * statistics_bytes
        dtype = accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype))
        on_cpu = hidden.device.type == "cpu"
        block_rows = min(rows, CPU_BLOCK_ROWS if on_cpu else GPU_BLOCK_ROWS)
        per_column = element_bytes * block_rows
        # Slices that are converted to the accumulation dtype, and the sum of the weight's gradient where it is not rounded by the product.
        if not half:
            converted = int(weight.dtype != dtype)
            per_column += width * dtype.itemsize * (converted * 2 if backward else converted)
            workspace -= block_rows * width * dtype.itemsize * int(hidden.dtype != dtype)
        elif backward and rows > block_rows:
            per_column += width * dtype.itemsize
        block_columns = min(columns, max(1, workspace // max(1, per_column)))
        if on_cpu:
            block_columns = min(block_columns, max(1, CPU_BLOCK_ELEMENTS // max(1, block_rows)))
            multiple = 128 if block_columns >= 128 else 16 if block_columns >= 16 else 1
            block_columns -= block_columns % multiple if block_columns < columns else 0
        elif block_columns < columns:
            block_columns = _whole_waves(block_rows, block_columns, hidden.device)
        return cls(max(1, block_rows), max(1, block_columns), dtype, half, slots)

    def operand(self, tensor: Tensor) -> Tensor:
        """Convert a slice to what the products take."""
        return tensor if self.half else tensor.to(self.dtype)

    def row_ranges(self, rows: int) -> Iterator[tuple[int, int]]:
        """Start and stop of each block of rows."""
        for start in range(0, rows, self.rows):
            yield start, min(start + self.rows, rows)

    def column_ranges(self, columns: int, cached: int) -> Iterator[tuple[int, int]]:
        """First and last column of each block, none of which straddles the end of the cache."""
        for begin, end in ((0, cached), (cached, columns)):
            for first in range(begin, end, self.columns):
                yield first, min(first + self.columns, end)


def _whole_waves(rows: int, columns: int, device: torch.device) -> int:
    """Round down to a width whose product keeps all multiprocessors busy to the end, not narrower than half."""
    height, width = PRODUCT_TILE
    if columns < 2 * width:
        return columns if columns < 16 else columns // 16 * 16
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    row_tiles = -(-rows // height)

    def busy(column_tiles: int) -> float:
        waves = -(-row_tiles * column_tiles // processors)
        return row_tiles * column_tiles / (waves * processors)

    most = columns // width
    return width * max(range(most, most // 2, -1), key=lambda tiles: (round(busy(tiles), 2), tiles))
