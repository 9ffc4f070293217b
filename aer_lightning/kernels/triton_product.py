"""Product and statistics (or gradient) of a tile of ``hidden @ weight.T`` in one kernel: the logits are never written.

Persistent: a program walks over tiles, row tiles innermost within groups so that the weight's slice stays in the second-level cache. The
tile's logits live in registers, in fp32, from the product to the statistics.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from aer_lightning.kernels.planning import Plan
from aer_lightning.kernels.triton_common import LN_2, LOG2_E, LOWEST, on_device, with_unit_stride

GROUP = 8  # row tiles that sweep over the columns together


@triton.jit
def _tile_position(tile, row_tiles, column_tiles, GROUP: tl.constexpr):
    group_size = GROUP * column_tiles
    group = tile // group_size
    height = tl.minimum(row_tiles - group * GROUP, GROUP)
    within = tile % group_size
    return group * GROUP + within % height, within // height


@triton.jit
def _project(
    hidden, weight, hidden_stride, weight_stride, rows, columns, width, row_tile, column_tile,
    DTYPE: tl.constexpr, DOT: tl.constexpr, DESCRIPTORS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One tile of the logits as four parts ``[ROWS, COLUMNS / 4]``; beyond the last row or column it holds anything."""
    logits = tl.zeros((ROWS, COLUMNS), DTYPE)
    if DESCRIPTORS:
        for start in tl.range(0, width, WIDTH):
            left = hidden.load([row_tile * ROWS, start])
            right = weight.load([column_tile * COLUMNS, start])
            logits = tl.dot(left, right.T, logits, input_precision="ieee", out_dtype=DTYPE)
    else:
        # For matrices whose rows do not begin at multiples of 16 bytes, and devices without a copy engine. Rows and columns beyond the
        # end read the last one: no mask but that of the width.
        row = row_tile * ROWS + tl.arange(0, ROWS)
        column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
        inner = tl.arange(0, WIDTH)
        row_pointers = hidden + tl.minimum(row, rows - 1).to(tl.int64)[:, None] * hidden_stride + inner[None, :]
        column_pointers = weight + tl.minimum(column, columns - 1).to(tl.int64)[:, None] * weight_stride + inner[None, :]
        for start in tl.range(0, width, WIDTH):
            inside = (start + inner < width)[None, :]
            left = tl.load(row_pointers + start, mask=inside, other=0.0).to(DOT)
            right = tl.load(column_pointers + start, mask=inside, other=0.0).to(DOT)
            logits = tl.dot(left, right.T, logits, input_precision="ieee", out_dtype=DTYPE)
    # The epilogue works on a part at a time: on the whole tile its intermediates would not fit in the registers beside the logits.
    left_half, right_half = _halves(logits, ROWS, COLUMNS)
    first, second = _halves(left_half, ROWS, COLUMNS // 2)
    third, fourth = _halves(right_half, ROWS, COLUMNS // 2)
    return first, second, third, fourth


@triton.jit
def _halves(block, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return block.reshape(ROWS, 2, COLUMNS // 2).permute(0, 2, 1).split()


@triton.jit
def _complete(part, bias, column, columns, BIAS: tl.constexpr):
    """Add the bias; -inf beyond the last column."""
    inside = column < columns
    if BIAS:
        part += tl.load(bias + column, mask=inside, other=0.0).to(part.dtype)[None, :]
    return tl.where(inside[None, :], part, float("-inf"))


@triton.jit
def _piece_statistics(part, centre, scale, target, column, ENTROPY: tl.constexpr):
    """Sum of what is below 1, how many ones, b / ln 2 and x_y of one piece."""
    at_target = tl.sum(tl.where(column[None, :] == target[:, None], part, 0.0), 1)
    exponent = tl.maximum((part - centre[:, None]) * scale[:, None], LOWEST, propagate_nan=tl.PropagateNan.ALL)
    share = tl.exp2(exponent)
    weighted = at_target * 0.0
    if ENTROPY:
        weighted = tl.sum(exponent * share, 1)
    rest = tl.where(share < 1.0, share, 0.0)
    return tl.sum(rest, 1), tl.sum(share - rest, 1), weighted, at_target


@triton.jit
def _part_statistics(part, centre, scale, target, column, ROWS: tl.constexpr, PART: tl.constexpr, ENTROPY: tl.constexpr):
    left, right = _halves(part, ROWS, PART)
    rest, ones, weighted, at_target = _piece_statistics(left, centre, scale, target, column, ENTROPY)
    r, o, b, z = _piece_statistics(right, centre, scale, target, column + PART // 2, ENTROPY)
    return rest + r, ones + o, weighted + b, at_target + z


@triton.jit(
    do_not_specialize=["inverse_stride", "statistic_stride", "split_stride", "rows", "columns"],
    do_not_specialize_on_alignment=["bias", "targets", "inverse_temperature", "partials"],
)
def product_statistics_kernel(
    hidden,  # [N, D], or its tensor descriptor
    weight,  # [V, D], or its tensor descriptor
    bias,  # [V]
    targets,  # [N], counted from the first row of `weight`
    inverse_temperature,  # [N], or [1] with stride 0
    partials,  # [4, tiles of V, N]
    hidden_stride, weight_stride, inverse_stride, statistic_stride, split_stride, rows, columns, width,
    ENTROPY: tl.constexpr, BIAS: tl.constexpr, DOT: tl.constexpr, DESCRIPTORS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Partial statistics of every tile of the logits, one split a column tile."""
    DTYPE: tl.constexpr = partials.dtype.element_ty
    PART: tl.constexpr = COLUMNS // 4
    row_tiles = tl.cdiv(rows, ROWS)
    column_tiles = tl.cdiv(columns, COLUMNS)
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0)):
        row_tile, column_tile = _tile_position(tile, row_tiles, column_tiles, GROUP)
        first, second, third, fourth = _project(
            hidden, weight, hidden_stride, weight_stride, rows, columns, width, row_tile, column_tile,
            DTYPE, DOT, DESCRIPTORS, ROWS, COLUMNS, WIDTH,
        )  # fmt: skip
        row = row_tile * ROWS + tl.arange(0, ROWS)
        valid = row < rows
        column = column_tile * COLUMNS + tl.arange(0, PART)
        first = _complete(first, bias, column, columns, BIAS)
        second = _complete(second, bias, column + PART, columns, BIAS)
        third = _complete(third, bias, column + 2 * PART, columns, BIAS)
        fourth = _complete(fourth, bias, column + 3 * PART, columns, BIAS)
        maximum = tl.max(tl.maximum(tl.maximum(first, second), tl.maximum(third, fourth)), 1)
        centre = tl.where(maximum == float("-inf"), 0.0, maximum)
        scale = tl.load(inverse_temperature + row * inverse_stride, mask=valid, other=1.0).to(DTYPE) * LOG2_E
        target = tl.load(targets + row, mask=valid, other=-1)
        target = tl.where((target < 0) | (target >= columns), -1, target).to(tl.int32)  # one in the next block is none of this padding
        column = column_tile * COLUMNS + tl.arange(0, PART // 2)
        rest, ones, weighted, at_target = _part_statistics(first, centre, scale, target, column, ROWS, PART, ENTROPY)
        r, o, b, z = _part_statistics(second, centre, scale, target, column + PART, ROWS, PART, ENTROPY)
        rest, ones, weighted, at_target = rest + r, ones + o, weighted + b, at_target + z
        r, o, b, z = _part_statistics(third, centre, scale, target, column + 2 * PART, ROWS, PART, ENTROPY)
        rest, ones, weighted, at_target = rest + r, ones + o, weighted + b, at_target + z
        r, o, b, z = _part_statistics(fourth, centre, scale, target, column + 3 * PART, ROWS, PART, ENTROPY)
        rest = rest + r + (ones + o - 1.0)
        result = partials + column_tile.to(tl.int64) * split_stride + row
        tl.store(result, maximum, mask=valid)
        tl.store(result + statistic_stride, rest, mask=valid)
        tl.store(result + 2 * statistic_stride, (weighted + b) * LN_2, mask=valid)
        tl.store(result + 3 * statistic_stride, at_target + z, mask=valid)


@triton.jit
def _part_gradient(part, result, bias, column, columns, valid, target, numbers, BIAS: tl.constexpr):
    """Write the gradient of one part. The block that holds it is padded to whole tiles, so no store is masked by column."""
    maximum, log_sum, scale, at_target, common, slope = numbers
    if BIAS:
        part += tl.load(bias + column, mask=column < columns, other=0.0).to(part.dtype)[None, :]
    exponent = (part - maximum[:, None]) * scale[:, None] - log_sum[:, None]
    exponent = tl.maximum(exponent, LOWEST, propagate_nan=tl.PropagateNan.ALL)
    value = tl.exp2(exponent) * (common[:, None] - slope[:, None] * exponent)
    value = tl.where(column[None, :] == target[:, None], at_target[:, None], value)
    active = (at_target != 0.0) | (common != 0.0) | (slope != 0.0)
    value = tl.where(active[:, None], value, 0.0)
    tl.store(result[:, None] + column[None, :], value.to(result.dtype.element_ty), mask=valid[:, None])


@triton.jit(do_not_specialize=["factor_stride", "rows", "columns"], do_not_specialize_on_alignment=["bias", "targets", "factors"])
def product_gradient_kernel(
    hidden,  # [N, D], or its tensor descriptor
    weight,  # [V, D], or its tensor descriptor
    bias,  # [V]
    targets,  # [N], counted from the first row of `weight`
    factors,  # [6, N], see `statistics.gradient_factors`
    gradient,  # [N, V rounded up to whole tiles], in the dtype of the products
    hidden_stride, weight_stride, factor_stride, gradient_stride, rows, columns, width,
    BIAS: tl.constexpr, DOT: tl.constexpr, DESCRIPTORS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Gradient of every tile of the logits, computed again."""
    DTYPE: tl.constexpr = factors.dtype.element_ty
    PART: tl.constexpr = COLUMNS // 4
    row_tiles = tl.cdiv(rows, ROWS)
    column_tiles = tl.cdiv(columns, COLUMNS)
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0)):
        row_tile, column_tile = _tile_position(tile, row_tiles, column_tiles, GROUP)
        first, second, third, fourth = _project(
            hidden, weight, hidden_stride, weight_stride, rows, columns, width, row_tile, column_tile,
            DTYPE, DOT, DESCRIPTORS, ROWS, COLUMNS, WIDTH,
        )  # fmt: skip
        row = row_tile * ROWS + tl.arange(0, ROWS)
        valid = row < rows
        target = tl.load(targets + row, mask=valid, other=-1)
        target = tl.where((target < 0) | (target >= columns), -1, target).to(tl.int32)
        factor = factors + row
        numbers = (
            tl.load(factor, mask=valid, other=0.0),
            tl.load(factor + factor_stride, mask=valid, other=0.0) * LOG2_E,
            tl.load(factor + 2 * factor_stride, mask=valid, other=0.0) * LOG2_E,
            tl.load(factor + 3 * factor_stride, mask=valid, other=0.0),
            tl.load(factor + 4 * factor_stride, mask=valid, other=0.0),
            tl.load(factor + 5 * factor_stride, mask=valid, other=0.0) * LN_2,
        )
        result = gradient + row.to(tl.int64) * gradient_stride
        column = column_tile * COLUMNS + tl.arange(0, PART)
        _part_gradient(first, result, bias, column, columns, valid, target, numbers, BIAS)
        _part_gradient(second, result, bias, column + PART, columns, valid, target, numbers, BIAS)
        _part_gradient(third, result, bias, column + 2 * PART, columns, valid, target, numbers, BIAS)
        _part_gradient(fourth, result, bias, column + 3 * PART, columns, valid, target, numbers, BIAS)


def launch_product_statistics(
    partials: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, inverse: Tensor, entropy: bool, plan: Plan
) -> None:
    """Write the partial statistics ``[4, tiles, n]`` of ``hidden @ weight.T``."""
    operands, strides, options, grid = _launch(hidden, weight, plan)
    with on_device(hidden):
        product_statistics_kernel[grid](
            *operands, hidden if bias is None else bias.contiguous(), targets, inverse, partials,
            *strides, int(inverse.numel() > 1), partials.stride(0), partials.stride(1), hidden.shape[0], weight.shape[0], hidden.shape[1],
            ENTROPY=entropy, BIAS=bias is not None, **options,
        )  # fmt: skip


def launch_product_gradient(
    gradient: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, factors: Tensor, plan: Plan
) -> None:
    """Write the gradient of ``hidden @ weight.T`` to `gradient` ``[n, v]``, whose rows have room for whole tiles."""
    operands, strides, options, grid = _launch(hidden, weight, plan)
    with on_device(hidden):
        product_gradient_kernel[grid](
            *operands, hidden if bias is None else bias.contiguous(), targets, factors, gradient,
            *strides, factors.stride(0), gradient.stride(0), hidden.shape[0], weight.shape[0], hidden.shape[1],
            BIAS=bias is not None, **options,
        )  # fmt: skip


def _launch(hidden: Tensor, weight: Tensor, plan: Plan) -> tuple[list[Any], tuple[int, int], dict[str, Any], tuple[int]]:
    hidden, weight = with_unit_stride(hidden), with_unit_stride(weight)
    rows, columns, width = plan.tile
    tiles = -(-hidden.shape[0] // rows) * -(-weight.shape[0] // columns)
    matrices: list[Any] = [hidden, weight]
    # The copy engine (TMA) keeps pointers out of the registers; it takes rows that begin at multiples of 16 bytes and do not overlap.
    descriptors = plan.device.capability >= 90 and all(
        matrix.stride(0) >= matrix.shape[1] and matrix.stride(0) * matrix.element_size() % 16 == 0 and matrix.data_ptr() % 16 == 0
        for matrix in (hidden, weight)
    )
    if descriptors:
        matrices = [TensorDescriptor.from_tensor(hidden, [rows, width]), TensorDescriptor.from_tensor(weight, [columns, width])]
    names = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32, torch.float64: tl.float64}
    options = {
        "DOT": names[hidden.dtype], "DESCRIPTORS": descriptors, "ROWS": rows, "COLUMNS": columns, "WIDTH": width, "GROUP": GROUP,
        "num_warps": 8 if rows >= 128 else 4, "num_stages": 3 if plan.device.kind == "cuda" else 1,
        "enable_fp_fusion": True,  # said, because it is Triton's default up to 3.9 only
    }  # fmt: skip
    return matrices, (hidden.stride(0), weight.stride(0)), options, (max(1, min(plan.device.processors, tiles)),)
