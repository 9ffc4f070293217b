"""Triton kernels on rows of logits: statistics in one read, gradient in one read and one write, and the merge of partial statistics.

One exp2 an element and one rescaling a block, or the kernels are bound by instructions and not by memory. Logits are read once, shifted by
the running maximum before they are scaled (so a common offset cancels exactly) and never written as probabilities. All row offsets are
64-bit, and rows lie on the first grid axis, which is the only one that holds more than 65,535.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def statistics_kernel(
    logits,  # [N, V], any float dtype
    targets,  # [N], counted from the first column of `logits`
    inverse_temperature,  # [N], or [1] with stride 0
    partials,  # [4, S, N]
    cache,  # [N, V] fp16
    cache_maximum,  # [N, tiles]
    logits_stride,
    inverse_stride,
    statistic_stride,
    split_stride,
    cache_stride,
    cache_maximum_stride,
    columns,
    split_columns,
    splits,
    first_tile,
    CACHED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Statistics of columns [split * split_columns, + split_columns) of a row; a program is one (row, split)."""
    program = tl.program_id(0)
    row = (program // splits).to(tl.int64)
    split = program % splits
    begin = split * split_columns
    end = tl.minimum(begin + split_columns, columns)
    DTYPE = partials.dtype.element_ty
    scale = tl.load(inverse_temperature + row * inverse_stride).to(DTYPE) * LOG2_E
    source = logits + row * logits_stride
    lanes = tl.arange(0, BLOCK)
    maximum = tl.full((), float("-inf"), DTYPE)
    total = tl.zeros((), DTYPE)
    weighted = tl.zeros((), DTYPE)
    for start in tl.range(begin, end, BLOCK):
        offsets = start + lanes
        inside = offsets < end
        block = tl.load(source + offsets, mask=inside, other=float("-inf")).to(DTYPE)
        block_maximum = tl.max(block, 0)
        if CACHED:
            centre = tl.where(block_maximum == float("-inf"), tl.zeros((), DTYPE), block_maximum)
            tl.store(cache + row * cache_stride + offsets, (block - centre).to(tl.float16), mask=inside)
            tl.store(cache_maximum + row * cache_maximum_stride + first_tile + start // BLOCK, centre)
        new_maximum = tl.maximum(maximum, block_maximum)
        finite = tl.where(new_maximum == float("-inf"), tl.zeros((), DTYPE), new_maximum)
        distance = tl.where(maximum == float("-inf"), tl.zeros((), DTYPE), (maximum - finite) * scale)
        rescale = tl.where(maximum == float("-inf"), tl.zeros((), DTYPE), tl.exp2(distance))
        exponent = (block - finite) * scale
        weight = tl.exp2(exponent)
        # 0 * -inf; a NaN has a NaN weight and stays.
        product = tl.where(weight == 0.0, tl.zeros((), DTYPE), exponent * weight)
        weighted = rescale * (weighted + distance * total) + tl.sum(product, 0)
        total = rescale * total + tl.sum(weight, 0)
        maximum = new_maximum
    target = tl.load(targets + row)
    at_target = tl.load(source + target, mask=(target >= begin) & (target < end), other=0.0).to(DTYPE)
    result = partials + split * split_stride + row
    tl.store(result, maximum)
    tl.store(result + statistic_stride, total)
    tl.store(result + 2 * statistic_stride, weighted * LN_2)
    tl.store(result + 3 * statistic_stride, at_target)


@triton.jit
def gradient_kernel(
    gradient,  # [N, V], may be `logits`
    logits,  # [N, V] any float dtype, or the fp16 cache
    cache_maximum,  # [N, tiles]
    targets,  # [N], counted from the first column of `logits`
    inverse_temperature,
    maximum,
    log_sum,
    entropy,
    grad_logprob,
    grad_entropy,
    gradient_stride,
    logits_stride,
    cache_maximum_stride,
    inverse_stride,
    columns,
    column_blocks,
    first_tile,
    ENTROPY: tl.constexpr,
    TILE: tl.constexpr,  # columns that share a tile maximum, 0 without a cache
    BLOCK: tl.constexpr,
):
    """Gradient of BLOCK columns of a row; a program is one (row, block). A row without upstream gradient is not read."""
    program = tl.program_id(0)
    row = (program // column_blocks).to(tl.int64)
    column = (program % column_blocks) * BLOCK
    offsets = column + tl.arange(0, BLOCK)
    inside = offsets < columns
    DTYPE = maximum.dtype.element_ty
    upstream = tl.load(grad_logprob + row).to(DTYPE)
    slope = tl.zeros((), DTYPE)
    if ENTROPY:
        slope = tl.load(grad_entropy + row).to(DTYPE)
    result = gradient + row * gradient_stride + offsets
    if (upstream == 0.0) & (slope == 0.0):
        tl.store(result, tl.zeros((BLOCK,), gradient.dtype.element_ty), mask=inside)
    else:
        inverse = tl.load(inverse_temperature + row * inverse_stride).to(DTYPE)
        row_log_sum = tl.load(log_sum + row)
        shift = tl.load(maximum + row)
        block = tl.load(logits + row * logits_stride + offsets, mask=inside, other=float("-inf")).to(DTYPE)
        distance = block - shift
        if TILE > 0:
            # The two maxima first: their difference is exact where an offset is common to both.
            tile_maximum = tl.load(cache_maximum + row * cache_maximum_stride + first_tile + offsets // TILE, mask=inside, other=0.0)
            distance = block + (tile_maximum - shift)
        log_probability = distance * inverse - row_log_sum
        probability = tl.exp2(log_probability * LOG2_E)
        factor = tl.zeros((BLOCK,), DTYPE) - upstream
        if ENTROPY:
            finite = tl.where(probability == 0.0, tl.zeros((), DTYPE), log_probability)
            factor -= slope * (finite + tl.load(entropy + row))
        target = tl.load(targets + row)
        value = probability * factor + tl.where(offsets == target, upstream, tl.zeros((), DTYPE))
        tl.store(result, (value * inverse).to(gradient.dtype.element_ty), mask=inside)


@triton.jit
def merge_kernel(
    partials,  # [4, S, N]
    inverse_temperature,
    result_0,  # [N] each: the merged statistics, or logprob, entropy, maximum, log-sum
    result_1,
    result_2,
    result_3,
    statistic_stride,
    split_stride,
    inverse_stride,
    splits,
    rows,
    FINISH: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Merge S partial statistics of ROWS rows, SPLITS at a time."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    valid = row < rows
    DTYPE = partials.dtype.element_ty
    scale = tl.load(inverse_temperature + row * inverse_stride, mask=valid, other=1.0).to(DTYPE)
    maximum = tl.full((ROWS,), float("-inf"), DTYPE)
    total = tl.zeros((ROWS,), DTYPE)
    weighted = tl.zeros((ROWS,), DTYPE)
    at_target = tl.zeros((ROWS,), DTYPE)
    for start in tl.range(0, splits, SPLITS):
        split = start + tl.arange(0, SPLITS)
        source = partials + split.to(tl.int64)[:, None] * split_stride + row[None, :]
        loaded = (split < splits)[:, None] & valid[None, :]
        tile_maximum = tl.load(source, mask=loaded, other=float("-inf"))
        tile_total = tl.load(source + statistic_stride, mask=loaded, other=0.0)
        tile_weighted = tl.load(source + 2 * statistic_stride, mask=loaded, other=0.0)
        at_target += tl.sum(tl.load(source + 3 * statistic_stride, mask=loaded, other=0.0), 0)
        new_maximum = tl.maximum(maximum, tl.max(tile_maximum, 0))
        finite = tl.where(new_maximum == float("-inf"), tl.zeros((), DTYPE), new_maximum)
        distance = tl.where(maximum == float("-inf"), tl.zeros((), DTYPE), (maximum - finite) * scale)
        rescale = tl.exp2(distance * LOG2_E)
        tile_empty = tile_maximum == float("-inf")
        tile_distance = tl.where(tile_empty, tl.zeros((), DTYPE), (tile_maximum - finite[None, :]) * scale[None, :])
        tile_rescale = tl.exp2(tile_distance * LOG2_E)
        weighted = rescale * (weighted + distance * total) + tl.sum(tile_rescale * (tile_weighted + tile_distance * tile_total), 0)
        total = rescale * total + tl.sum(tile_rescale * tile_total, 0)
        maximum = new_maximum
    if FINISH:
        log_sum = tl.log(total)
        # Rounding can leave a few 1e-8 above 0 when p -> 1; NaN fails the comparison and stays.
        logprob = (at_target - maximum) * scale - log_sum
        logprob = tl.where(logprob > 0.0, tl.zeros((), DTYPE), logprob)
        tl.store(result_0 + row, logprob, mask=valid)
        tl.store(result_1 + row, log_sum - weighted / total, mask=valid)
        tl.store(result_2 + row, maximum, mask=valid)
        tl.store(result_3 + row, log_sum, mask=valid)
    else:
        tl.store(result_0 + row, maximum, mask=valid)
        tl.store(result_1 + row, total, mask=valid)
        tl.store(result_2 + row, weighted, mask=valid)
        tl.store(result_3 + row, at_target, mask=valid)
