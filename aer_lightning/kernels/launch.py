"""Block sizes, warps and stages of the Triton kernels, by device and dtype."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ROW_BLOCK = 128 if INTERPRETED else 2048  # columns of a row that a program takes at a time
TILE = 32 if INTERPRETED else 128  # columns of a product's tile where nothing speaks for more


@dataclass(frozen=True)
class ProductLaunch:
    """A persistent matrix product: its tile, and what feeds it."""

    rows: int
    columns: int
    width: int
    warps: int
    stages: int
    dtype: torch.dtype
    programs: int
    descriptors: bool = False  # operands come by the copy engine (TMA), which keeps pointers out of the registers
    precision: str = "ieee"
    group: int = 8

    def grid(self, rows: int, columns: int) -> tuple[int]:
        """One program a multiprocessor, or a tile if there are fewer."""
        return (max(1, min(self.programs, -(-rows // self.rows) * -(-columns // self.columns))),)

    def options(self) -> dict[str, Any]:
        """Collect the constants that a kernel with a product is compiled for."""
        names = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32, torch.float64: tl.float64}
        return {
            "DOT": names[self.dtype],
            "PRECISION": self.precision,
            "DESCRIPTORS": self.descriptors,
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "WIDTH": self.width,
            "GROUP": self.group,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


def launch_of(hidden: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype, bias: bool, cached: bool) -> ProductLaunch:
    """Choose the tile for operands of `dtype` made from these matrices, with or without a bias and a cache of logits."""
    aligned = all(
        matrix.dtype == dtype and matrix.stride(1) == 1 and matrix.stride(0) * dtype.itemsize % 16 == 0 and matrix.data_ptr() % 16 == 0
        for matrix in (hidden, weight)
    )
    if INTERPRETED:
        return ProductLaunch(32, TILE, 32, 4, 1, dtype, 3, aligned, group=2)
    capability = torch.cuda.get_device_capability(hidden.device)[0]
    return tile_for(dtype, capability, processors(hidden.device), aligned, bias, cached, torch.backends.cuda.matmul.allow_tf32)


def tile_for(
    dtype: torch.dtype, capability: int, programs: int, aligned: bool, bias: bool = False, cached: bool = False, tf32: bool = False
) -> ProductLaunch:
    """Choose the tile on a device of compute capability `capability`.x (8: Ampere and Ada, 9: Hopper, 10: Blackwell).

    No choice may spill registers (tests/kernels/test_report.py): the wide tile has room for neither a bias nor the cache's stores.
    """
    if dtype in (torch.bfloat16, torch.float16):
        columns = TILE
        if capability >= 9 and aligned and not bias and not cached:
            columns = 256
        elif capability >= 10 and not aligned and bias and not cached:
            columns = 64
        return ProductLaunch(128, columns, 64 if capability >= 9 else 32, 8, 3, dtype, programs, capability >= 9 and aligned)
    precision = "tf32" if tf32 and dtype == torch.float32 else "ieee"
    return ProductLaunch(64, 64, 32, 4, 2, dtype, programs, False, precision)


def sum_tile_for(launch: ProductLaunch, capability: int) -> ProductLaunch:
    """Choose the tile of a product that is added to what is there: on Blackwell a narrow one, for the registers."""
    return replace(launch, columns=64 if capability >= 10 else TILE, descriptors=False)


@cache
def processors(device: torch.device) -> int:
    """Count the multiprocessors of a device."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
