"""Triton kernels with a matrix product inside: statistics or gradient of a tile of ``hidden @ weight.T`` without writing the logits.

Persistent: a program walks over tiles, row tiles innermost within groups so that the weight's slice stays in the second-level cache. The
tile's logits live in registers, in fp32, from the product to the statistics. `product_kernel` is the plain product with an fp32 sum, for
devices whose library has none.
"""

from __future__ import annotations

import triton
import triton.language as tl

from aer_lightning.kernels.triton_rows import LN_2, LOG2_E


@triton.jit
def _tile_position(tile, row_tiles, column_tiles, GROUP: tl.constexpr):
    """Row and column of a tile, in groups of GROUP row tiles that sweep over the columns together."""
    group_size = GROUP * column_tiles
    group = tile // group_size
    height = tl.minimum(row_tiles - group * GROUP, GROUP)
    within = tile % group_size
    return group * GROUP + within % height, within // height


@triton.jit
def _project(
    hidden, weight, hidden_stride, weight_stride, rows, columns, width, row_tile, column_tile,
    DTYPE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, DESCRIPTORS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One tile of the logits as four parts ``[ROWS, COLUMNS / 4]``; beyond the last row or column it holds anything."""
    logits = tl.zeros((ROWS, COLUMNS), DTYPE)
    if DESCRIPTORS:
        for start in tl.range(0, width, WIDTH):
            left = hidden.load([row_tile * ROWS, start])
            right = weight.load([column_tile * COLUMNS, start])
            logits = tl.dot(left, right.T, logits, input_precision=PRECISION, out_dtype=DTYPE)
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
            logits = tl.dot(left, right.T, logits, input_precision=PRECISION, out_dtype=DTYPE)
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
def _part_statistics(part, finite, scale, target, column, kept, valid, columns, CACHED: tl.constexpr):
    """s, b / ln 2 and z_y of one part; keeps its distances to the tile's maximum."""
    at_target = tl.sum(tl.where(column[None, :] == target[:, None], part, 0.0), 1)
    distance = part - finite[:, None]
    if CACHED:
        tl.store(kept[:, None] + column[None, :], distance.to(tl.float16), mask=valid[:, None] & (column < columns)[None, :])
    exponent = distance * scale[:, None]
    share = tl.exp2(exponent)
    product = tl.where(share == 0.0, 0.0, exponent * share)
    return tl.sum(share, 1), tl.sum(product, 1), at_target


@triton.jit
def product_statistics_kernel(
    hidden,  # [N, D], or its tensor descriptor
    weight,  # [V, D], or its tensor descriptor
    bias,  # [V]
    targets,  # [N], counted from the first row of `weight`
    inverse_temperature,  # [N], or [1] with stride 0
    partials,  # [4, tiles of V, N]
    cache,  # [N, V] fp16
    cache_maximum,  # [N, tiles of V]
    hidden_stride, weight_stride, inverse_stride, statistic_stride, split_stride, cache_stride, cache_maximum_stride,
    rows, columns, width, first_tile,
    BIAS: tl.constexpr, CACHED: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, DESCRIPTORS: tl.constexpr,
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
            DTYPE, DOT, PRECISION, DESCRIPTORS, ROWS, COLUMNS, WIDTH,
        )  # fmt: skip
        row = row_tile * ROWS + tl.arange(0, ROWS)
        column = column_tile * COLUMNS + tl.arange(0, PART)
        first = _complete(first, bias, column, columns, BIAS)
        second = _complete(second, bias, column + PART, columns, BIAS)
        third = _complete(third, bias, column + 2 * PART, columns, BIAS)
        fourth = _complete(fourth, bias, column + 3 * PART, columns, BIAS)
        maximum = tl.max(tl.maximum(tl.maximum(first, second), tl.maximum(third, fourth)), 1)
        finite = tl.where(maximum == float("-inf"), 0.0, maximum)
        valid = row < rows
        scale = tl.load(inverse_temperature + row * inverse_stride, mask=valid, other=1.0).to(DTYPE) * LOG2_E
        target = tl.load(targets + row, mask=valid, other=-1).to(tl.int32)
        target = tl.where(target < columns, target, -1)  # a target in the next block is none of the padding beyond this one
        kept = cache + row.to(tl.int64) * cache_stride
        if CACHED:
            tl.store(cache_maximum + row.to(tl.int64) * cache_maximum_stride + first_tile + column_tile, finite, mask=valid)
        total, weighted, at_target = _part_statistics(first, finite, scale, target, column, kept, valid, columns, CACHED)
        s, b, z = _part_statistics(second, finite, scale, target, column + PART, kept, valid, columns, CACHED)
        total, weighted, at_target = total + s, weighted + b, at_target + z
        s, b, z = _part_statistics(third, finite, scale, target, column + 2 * PART, kept, valid, columns, CACHED)
        total, weighted, at_target = total + s, weighted + b, at_target + z
        s, b, z = _part_statistics(fourth, finite, scale, target, column + 3 * PART, kept, valid, columns, CACHED)
        result = partials + column_tile.to(tl.int64) * split_stride + row
        tl.store(result, maximum, mask=valid)
        tl.store(result + statistic_stride, total + s, mask=valid)
        tl.store(result + 2 * statistic_stride, (weighted + b) * LN_2, mask=valid)
        tl.store(result + 3 * statistic_stride, at_target + z, mask=valid)


@triton.jit
def _part_gradient(
    part, result, bias, column, columns, valid, target, inverse, maximum, log_sum, upstream, slope, constant,
    BIAS: tl.constexpr, ENTROPY: tl.constexpr,
):  # fmt: skip
    """Write the gradient of one part; `constant` is -(g_lp + g_H H) / T, `slope` g_H / T, `upstream` g_lp / T."""
    if BIAS:
        part += tl.load(bias + column, mask=column < columns, other=0.0).to(part.dtype)[None, :]
    log_probability = (part - maximum[:, None]) * inverse[:, None] - log_sum[:, None]
    share = tl.exp2(log_probability * LOG2_E)
    if ENTROPY:
        value = share * (constant[:, None] - slope[:, None] * tl.where(share == 0.0, 0.0, log_probability))
        active = (upstream != 0.0) | (slope != 0.0)
    else:
        value = share * constant[:, None]
        active = upstream != 0.0
    value += tl.where(column[None, :] == target[:, None], upstream[:, None], 0.0)
    value = tl.where(active[:, None], value, 0.0)
    tl.store(result[:, None] + column[None, :], value.to(result.dtype.element_ty), mask=valid[:, None] & (column < columns)[None, :])


@triton.jit
def product_gradient_kernel(
    hidden,  # [N, D], or its tensor descriptor
    weight,  # [V, D], or its tensor descriptor
    bias,  # [V]
    targets,  # [N], counted from the first row of `weight`
    inverse_temperature,  # [N], or [1] with stride 0
    maximum, log_sum, entropy, grad_logprob, grad_entropy,  # [N] each
    gradient,  # [N, V], in the dtype of the products
    hidden_stride, weight_stride, inverse_stride, gradient_stride, rows, columns, width,
    BIAS: tl.constexpr, ENTROPY: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, DESCRIPTORS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Gradient of every tile of the logits, computed again."""
    DTYPE: tl.constexpr = maximum.dtype.element_ty
    PART: tl.constexpr = COLUMNS // 4
    row_tiles = tl.cdiv(rows, ROWS)
    column_tiles = tl.cdiv(columns, COLUMNS)
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0)):
        row_tile, column_tile = _tile_position(tile, row_tiles, column_tiles, GROUP)
        first, second, third, fourth = _project(
            hidden, weight, hidden_stride, weight_stride, rows, columns, width, row_tile, column_tile,
            DTYPE, DOT, PRECISION, DESCRIPTORS, ROWS, COLUMNS, WIDTH,
        )  # fmt: skip
        row = row_tile * ROWS + tl.arange(0, ROWS)
        valid = row < rows
        inverse = tl.load(inverse_temperature + row * inverse_stride, mask=valid, other=1.0).to(DTYPE)
        target = tl.load(targets + row, mask=valid, other=-1).to(tl.int32)
        upstream = tl.load(grad_logprob + row, mask=valid, other=0.0).to(DTYPE) * inverse
        slope = upstream
        constant = -upstream
        if ENTROPY:
            slope = tl.load(grad_entropy + row, mask=valid, other=0.0).to(DTYPE) * inverse
            constant -= slope * tl.load(entropy + row, mask=valid, other=0.0)
        shift = tl.load(maximum + row, mask=valid, other=0.0)
        total = tl.load(log_sum + row, mask=valid, other=0.0)
        result = gradient + row.to(tl.int64) * gradient_stride
        column = column_tile * COLUMNS + tl.arange(0, PART)
        _part_gradient(first, result, bias, column, columns, valid, target, inverse, shift, total, upstream, slope, constant, BIAS, ENTROPY)
        column += PART
        _part_gradient(
            second, result, bias, column, columns, valid, target, inverse, shift, total, upstream, slope, constant, BIAS, ENTROPY
        )
        column += PART
        _part_gradient(third, result, bias, column, columns, valid, target, inverse, shift, total, upstream, slope, constant, BIAS, ENTROPY)
        column += PART
        _part_gradient(
            fourth, result, bias, column, columns, valid, target, inverse, shift, total, upstream, slope, constant, BIAS, ENTROPY
        )


@triton.jit
def product_kernel(
    left,  # [M, K]
    right,  # [K, N]
    out,  # [M, N]
    left_row_stride, left_inner_stride, right_inner_stride, right_column_stride, out_stride,
    rows, columns, width,
    ACCUMULATE: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """``out (+)= left @ right`` for any strides, summed in DTYPE."""
    row_tiles = tl.cdiv(rows, ROWS)
    column_tiles = tl.cdiv(columns, COLUMNS)
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0)):
        row_tile, column_tile = _tile_position(tile, row_tiles, column_tiles, GROUP)
        row = (row_tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        column = (column_tile * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
        inner = tl.arange(0, WIDTH).to(tl.int64)
        row_pointers = left + tl.minimum(row, rows - 1)[:, None] * left_row_stride + inner[None, :] * left_inner_stride
        column_pointers = right + inner[:, None] * right_inner_stride + tl.minimum(column, columns - 1)[None, :] * right_column_stride
        result = out + row[:, None] * out_stride + column[None, :]
        stored = (row < rows)[:, None] & (column < columns)[None, :]
        if ACCUMULATE:  # noqa: SIM108 (a branch on a constant, not on a value)
            total = tl.load(result, mask=stored, other=0.0).to(DTYPE)
        else:
            total = tl.zeros((ROWS, COLUMNS), DTYPE)
        for start in tl.range(0, width, WIDTH):
            inside = start + inner < width
            a = tl.load(row_pointers, mask=inside[None, :], other=0.0)
            b = tl.load(column_pointers, mask=inside[:, None], other=0.0)
            total = tl.dot(a, b, total, input_precision=PRECISION, out_dtype=DTYPE)
            row_pointers += WIDTH * left_inner_stride
            column_pointers += WIDTH * right_inner_stride
        tl.store(result, total.to(out.dtype.element_ty), mask=stored)
