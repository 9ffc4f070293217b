"""Gradient of rows of logits in one read and one write, from logits or from the cache, in place if asked to."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from aer_lightning.kernels.triton_common import LN_2, LOG2_E, LOWEST, load_logits, on_device, warps_of


@triton.jit(
    do_not_specialize=["maximum_stride", "factor_stride", "column_blocks", "first_tile"],
    do_not_specialize_on_alignment=["targets", "factors", "cache_maximum"],
)
def gradient_kernel(
    gradient,  # [N, V], may be `logits`
    logits,  # [N, V] any float dtype, or the fp16 cache
    cache_maximum,  # [N, tiles]
    bias,  # [V]
    targets,  # [N], counted from the first column of `logits`
    squash,  # [1]
    factors,  # [6 or 8, N], see `statistics.gradient_factors`
    gradient_stride, logits_stride, maximum_stride, factor_stride, columns, column_blocks, first_tile,
    CACHED: tl.constexpr, BIAS: tl.constexpr, SQUASH: tl.constexpr, TOP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient of BLOCK columns of a row; a program is one (row, block). A row without upstream gradient is not read."""
    program = tl.program_id(0)
    row = (program // column_blocks).to(tl.int64)
    number = program % column_blocks
    lanes = tl.arange(0, BLOCK)
    offsets = number * BLOCK + lanes
    inside = offsets < columns
    DTYPE: tl.constexpr = factors.dtype.element_ty
    factor = factors + row
    at_target = tl.load(factor + 3 * factor_stride)
    common = tl.load(factor + 4 * factor_stride)
    slope = tl.load(factor + 5 * factor_stride)
    result = gradient + row * gradient_stride + offsets
    if (at_target == 0.0) & (common == 0.0) & (slope == 0.0):
        tl.store(result, tl.zeros((BLOCK,), gradient.dtype.element_ty), mask=inside)
    else:
        maximum = tl.load(factor)
        log_sum = tl.load(factor + factor_stride) * LOG2_E
        inverse = tl.load(factor + 2 * factor_stride)
        before = tl.load(squash).to(DTYPE) if SQUASH else inverse
        source = logits + row * logits_stride
        if CACHED:
            # The two maxima first: their difference is exact where an offset is common to both.
            tile_maximum = tl.load(cache_maximum + row * maximum_stride + first_tile + number)
            kept = tl.load(source + offsets, mask=inside, other=0.0).to(DTYPE)
            exponent = kept + ((tile_maximum - maximum) * (inverse * LOG2_E) - log_sum)
            x = kept * (LN_2 / inverse) + tile_maximum
        else:
            x = load_logits(source, bias, offsets, inside, before, DTYPE, BIAS, SQUASH)
            exponent = (x - maximum) * (inverse * LOG2_E) - log_sum
        exponent = tl.maximum(exponent, LOWEST, propagate_nan=tl.PropagateNan.ALL)
        share = tl.exp2(exponent)
        if TOP:
            lean = slope * (exponent * LN_2 + tl.load(factor + 7 * factor_stride))
            value = share * (common - tl.where(x >= tl.load(factor + 6 * factor_stride), lean, 0.0))
        else:
            value = share * (common - (slope * LN_2) * exponent)
        place = tl.load(targets + row) - number * BLOCK
        if (place >= 0) & (place < BLOCK):
            value = tl.where(lanes == place.to(tl.int32), at_target, value)
        if SQUASH:
            value *= 1.0 - x * x
        tl.store(result, value.to(gradient.dtype.element_ty), mask=inside)


def launch_gradient(
    gradient: Tensor, logits: Tensor, maximum: Tensor | None, bias: Tensor | None, targets: Tensor, squash: Tensor | None, factors: Tensor,
    block: int, first_tile: int = 0,
) -> None:  # fmt: skip
    """Write the gradient of logits ``[n, V]``, or of the cache if there are tile maxima."""
    rows, columns = logits.shape
    if rows == 0:
        return
    column_blocks = -(-columns // block)
    with on_device(logits):
        gradient_kernel[(rows * column_blocks,)](
            gradient, logits, factors if maximum is None else maximum, logits if bias is None else bias, targets,
            factors if squash is None else squash, factors,
            gradient.stride(0), logits.stride(0), 0 if maximum is None else maximum.stride(0), factors.stride(0), columns, column_blocks,
            first_tile,
            CACHED=maximum is not None, BIAS=bias is not None and maximum is None, SQUASH=squash is not None, TOP=len(factors) == 8,
            BLOCK=block, num_warps=warps_of(block), enable_fp_fusion=True,
        )  # fmt: skip
