"""Where the top of a row ends, without sorting it: bisection over the ordered bit patterns of its logits."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from aer_lightning.kernels.statistics import top_count
from aer_lightning.kernels.triton_common import INTERPRETED, LOG2_E, load_logits, on_device

BLOCK = 128 if INTERPRETED else 4096


INT_MAX32 = tl.constexpr(0x7FFFFFFF)
INT_MAX64 = tl.constexpr(0x7FFFFFFFFFFFFFFF)


@triton.jit
def _value_of(key, DTYPE: tl.constexpr, BITS: tl.constexpr):
    """Bits of floats to integers of the same order (for a DTYPE of integers), and back: the map is its own inverse."""
    return (key ^ ((key >> (BITS - 1)) & (INT_MAX32 if BITS == 32 else INT_MAX64))).to(DTYPE, bitcast=True)


@triton.jit
def threshold_kernel(
    threshold,  # [N]
    logits,  # [N, V]
    bias,  # [V]
    inverse_temperature,  # [N], or [1] with stride 0
    squash,  # [1]
    mass,  # [1]: the probability that the top holds
    logits_stride, inverse_stride, columns, count,
    MASS: tl.constexpr, BIAS: tl.constexpr, SQUASH: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest threshold with at least `count` logits (or `mass`) at or above it, then moved midway to the next lower logit."""
    row = tl.program_id(0).to(tl.int64)
    DTYPE: tl.constexpr = threshold.dtype.element_ty
    INT: tl.constexpr = tl.int32 if BITS == 32 else tl.int64
    scale = tl.load(inverse_temperature + row * inverse_stride).to(DTYPE) * LOG2_E
    before = tl.load(squash).to(DTYPE) if SQUASH else scale
    source = logits + row * logits_stride
    lanes = tl.arange(0, BLOCK)
    maximum = tl.full((), float("-inf"), DTYPE)
    lowest = tl.full((), float("inf"), DTYPE)
    for start in tl.range(0, columns, BLOCK):
        inside = start + lanes < columns
        block = load_logits(source, bias, start + lanes, inside, before, DTYPE, BIAS, SQUASH)
        maximum = tl.maximum(maximum, tl.max(block, 0))
        lowest = tl.minimum(lowest, tl.min(tl.where(inside, block, float("inf")), 0))
    centre = tl.where(maximum == float("-inf"), 0.0, maximum)
    goal = count.to(DTYPE)
    if MASS:
        goal = tl.zeros((), DTYPE)
        for start in tl.range(0, columns, BLOCK):
            block = load_logits(source, bias, start + lanes, start + lanes < columns, before, DTYPE, BIAS, SQUASH)
            goal += tl.sum(tl.exp2((block - centre) * scale), 0)
        goal *= tl.load(mass).to(DTYPE)
    low = _value_of(lowest.to(INT, bitcast=True), INT, BITS)
    high = _value_of(maximum.to(INT, bitcast=True), INT, BITS)
    for _ in range(BITS):
        middle = (low & high) + ((low ^ high) >> 1)
        middle += (middle < high).to(INT) * ((low ^ high) & 1)  # rounded up
        value = _value_of(middle, DTYPE, BITS)
        held = tl.zeros((), DTYPE)
        for start in tl.range(0, columns, BLOCK):
            block = load_logits(source, bias, start + lanes, start + lanes < columns, before, DTYPE, BIAS, SQUASH)
            above = (block >= value) & (start + lanes < columns)
            if MASS:
                held += tl.sum(tl.where(above, tl.exp2((block - centre) * scale), 0.0), 0)
            else:
                held += tl.sum(above.to(DTYPE), 0)
        enough = held >= goal
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, tl.maximum(middle - 1, low))
    found = _value_of(low, DTYPE, BITS)
    following = tl.full((), float("-inf"), DTYPE)
    for start in tl.range(0, columns, BLOCK):
        block = load_logits(source, bias, start + lanes, start + lanes < columns, before, DTYPE, BIAS, SQUASH)
        following = tl.maximum(following, tl.max(tl.where(block < found, block, float("-inf")), 0))
    between = found / 2 + following / 2
    tl.store(threshold + row, tl.where((between > following) & (following > float("-inf")), between, found))


def launch_threshold(
    threshold: Tensor, logits: Tensor, bias: Tensor | None, inverse: Tensor, squash: Tensor | None, share: float, mass: Tensor | None
) -> None:
    """Write the threshold ``[n]`` of logits ``[n, V]``; by `mass` ``[1]`` if there is one, otherwise by the share of the tokens."""
    rows, columns = logits.shape
    if rows == 0:
        return
    with on_device(logits):
        threshold_kernel[(rows,)](
            threshold, logits, logits if bias is None else bias, inverse, inverse if squash is None else squash,
            inverse if mass is None else mass, logits.stride(0), int(inverse.numel() > 1), columns, top_count(share, columns),
            MASS=mass is not None, BIAS=bias is not None, SQUASH=squash is not None, BITS=threshold.element_size() * 8,
            BLOCK=min(BLOCK, triton.next_power_of_2(columns)), num_warps=8, enable_fp_fusion=True,
        )  # fmt: skip
