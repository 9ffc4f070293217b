"""Statistics of rows of logits in one read.

One exp2 an element and one rescaling a block, or the kernel is bound by instructions and not by memory: a thread takes 64 elements, so
that what is done once a block costs little. Logits are shifted by the
maximum of their block before they are scaled (so a common offset cancels exactly) and never written as probabilities. All row offsets are
64-bit, and rows lie on the first grid axis, which is the only one that holds more than 65,535.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from aer_lightning.kernels.triton_common import INTERPRETED, LN_2, LOG2_E, LOWEST, load_logits, on_device, warps_of

BLOCK = 128 if INTERPRETED else 8192


@triton.jit(
    do_not_specialize=["inverse_stride", "maximum_stride", "statistic_stride", "split_stride", "split_blocks", "splits", "first_tile"],
    do_not_specialize_on_alignment=["targets", "inverse_temperature", "threshold", "partials", "cache_maximum"],
)
def statistics_kernel(
    logits,  # [N, V], any float dtype
    bias,  # [V]
    targets,  # [N], counted from the first column of `logits`
    inverse_temperature,  # [N], or [1] with stride 0
    squash,  # [1]
    threshold,  # [N]
    partials,  # [4 or 7, S, N]
    cache,  # [N, V] fp16
    cache_maximum,  # [N, tiles]
    logits_stride, inverse_stride, statistic_stride, split_stride, cache_stride, maximum_stride,
    columns, split_blocks, splits, first_tile,
    ENTROPY: tl.constexpr, CACHED: tl.constexpr, BIAS: tl.constexpr, SQUASH: tl.constexpr, TOP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Statistics of `split_blocks` blocks of BLOCK columns of a row; a program is one (row, split)."""
    program = tl.program_id(0)
    row = (program // splits).to(tl.int64)
    split = program % splits
    begin = split * split_blocks * BLOCK
    end = tl.minimum(begin + split_blocks * BLOCK, columns)
    DTYPE = partials.dtype.element_ty
    scale = tl.load(inverse_temperature + row * inverse_stride).to(DTYPE) * LOG2_E
    before = tl.load(squash).to(DTYPE) if SQUASH else scale
    edge = tl.load(threshold + row).to(DTYPE) if TOP else scale
    source = logits + row * logits_stride
    lanes = tl.arange(0, BLOCK)
    maximum = tl.full((), float("-inf"), DTYPE)
    rest = tl.full((), -1.0, DTYPE)  # the sum without the 1 of the maximum
    weighted = tl.zeros((), DTYPE)
    top_total = tl.zeros((), DTYPE)
    top_weighted = tl.zeros((), DTYPE)
    for start in tl.range(begin, end, BLOCK):
        offsets = start + lanes
        block = load_logits(source, bias, offsets, offsets < end, before, DTYPE, BIAS, SQUASH)
        block_maximum = tl.max(block, 0)
        empty = block_maximum == float("-inf")
        centre = tl.where(empty, tl.zeros((), DTYPE), block_maximum)
        exponent = tl.maximum((block - centre) * scale, LOWEST, propagate_nan=tl.PropagateNan.ALL)
        if CACHED:
            tl.store(cache + row * cache_stride + offsets, exponent.to(tl.float16), mask=offsets < end)
            tl.store(cache_maximum + row * maximum_stride + first_tile + start // BLOCK, centre)
        share = tl.exp2(exponent)
        total = tl.sum(share, 0)
        block_rest = total - 1.0
        if total < 2.0:  # then only the maximum is 1
            block_rest = tl.sum(tl.where(share < 1.0, share, 0.0), 0)
        block_rest = tl.where(empty, -1.0, block_rest)
        higher = tl.maximum(maximum, block_maximum)
        distance = tl.where(maximum == float("-inf"), 0.0, (maximum - higher) * scale)
        block_distance = tl.where(empty, 0.0, (block_maximum - higher) * scale)
        factor, block_factor = tl.exp2(distance), tl.exp2(block_distance)
        if ENTROPY:
            weighted = factor * (weighted + distance * (1.0 + rest))
            weighted += block_factor * (tl.sum(exponent * share, 0) + block_distance * (1.0 + block_rest))
        if TOP:
            kept = tl.where(block >= edge, share, 0.0)
            kept_total = tl.sum(kept, 0)
            top_weighted = factor * (top_weighted + distance * top_total)
            top_weighted += block_factor * (tl.sum(exponent * kept, 0) + block_distance * kept_total)
            top_total = factor * top_total + block_factor * kept_total
        rest = tl.where(maximum >= block_maximum, rest + block_factor * (1.0 + block_rest), block_rest + factor * (1.0 + rest))
        maximum = higher
    target = tl.load(targets + row)
    inside = (target >= begin) & (target < end)
    at_target = load_logits(source, bias, target, inside, before, DTYPE, BIAS, SQUASH)
    result = partials + split.to(tl.int64) * split_stride + row
    tl.store(result, maximum)
    tl.store(result + statistic_stride, rest)
    tl.store(result + 2 * statistic_stride, weighted * LN_2)
    tl.store(result + 3 * statistic_stride, tl.where(inside, at_target, 0.0))
    if TOP:
        poison = 0.0 * rest
        tl.store(result + 4 * statistic_stride, edge)
        tl.store(result + 5 * statistic_stride, top_total - 1.0 + poison)
        tl.store(result + 6 * statistic_stride, top_weighted * LN_2 + poison)


def launch_statistics(
    partials: Tensor, logits: Tensor, bias: Tensor | None, targets: Tensor, inverse: Tensor, squash: Tensor | None,
    threshold: Tensor | None, split_blocks: int, cache: tuple[Tensor, Tensor, int] | None, entropy: bool, block: int,
) -> None:  # fmt: skip
    """Write the statistics ``[4 or 7, S, n]`` of logits ``[n, V]``; the cache is (logits in fp16, tile maxima, the first tile)."""
    rows, columns = logits.shape
    if rows == 0:
        return
    kept, maximum, first_tile = cache or (logits, partials, 0)
    wide = bias is cache is squash is threshold is None and logits.stride(0) % 16 == columns % 16 == logits.data_ptr() % 16 == 0
    with on_device(logits):
        statistics_kernel[(rows * partials.shape[1],)](
            logits, logits if bias is None else bias, targets, inverse, inverse if squash is None else squash,
            inverse if threshold is None else threshold, partials, kept, maximum,
            logits.stride(0), int(inverse.numel() > 1), partials.stride(0), partials.stride(1), kept.stride(0),
            0 if cache is None else maximum.stride(0),
            columns, split_blocks, partials.shape[1], first_tile,
            ENTROPY=entropy, CACHED=cache is not None, BIAS=bias is not None, SQUASH=squash is not None, TOP=threshold is not None,
            BLOCK=block, num_warps=warps_of(block, wide), enable_fp_fusion=True,
        )  # fmt: skip


def splits_of(rows: int, blocks: int, processors: int) -> tuple[int, int]:
    """How often a row of `blocks` is split, and into how many: only as far as the rows alone do not fill the device."""
    splits = min(blocks, -(-4 * processors // max(1, rows)))
    split_blocks = -(-blocks // splits)
    return -(-blocks // split_blocks), split_blocks


def as_tensor(value: Tensor | float, like: Tensor) -> Tensor:
    """One value per row, or ``[1]``: a tensor, because a float argument would be rounded to fp32 for fp64 as well. Made anew each time:
    one that is kept would belong to the memory of a CUDA graph, had it been made while that was captured.
    """
    return value.contiguous() if isinstance(value, Tensor) else torch.full((1,), value, dtype=like.dtype, device=like.device)


def block_of(vocabulary: int) -> int:
    """Columns that a program takes at a time: the same for every slice of a vocabulary, or the last would be compiled apart."""
    return min(BLOCK, triton.next_power_of_2(vocabulary))
