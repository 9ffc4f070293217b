"""What the Triton kernels share: reading logits, and the tangent of a softcap."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-1000.0)  # 2^-1000 is 0, and 0 * -1000 is no NaN, as 0 * -inf would be


@triton.jit
def hyperbolic_tangent(x):
    """Exact to a rounding near 0 as well, where 1 - 2 / (e^2x + 1) would lose digits."""
    size = tl.abs(x)
    decay = tl.exp2(size * (-2.0 * LOG2_E))
    far = (1.0 - decay) / (1.0 + decay)
    square = x * x
    near = size * (1.0 + square * (-1.0 / 3 + square * (2.0 / 15 - square * (17.0 / 315 - square * (62.0 / 2835)))))
    value = tl.where(size < 0.15, near, far)
    return tl.where(x < 0.0, -value, value)


@triton.jit
def load_logits(source, bias, offsets, inside, squash, DTYPE: tl.constexpr, BIAS: tl.constexpr, SQUASH: tl.constexpr):
    """Logits at `offsets` of a row, -inf where not `inside`; tanh(squash z) where there is a softcap."""
    x = tl.load(source + offsets, mask=inside, other=float("-inf")).to(DTYPE)
    if BIAS:
        x += tl.load(bias + offsets, mask=inside, other=0.0).to(DTYPE)
    if SQUASH:
        x = tl.where(inside, hyperbolic_tangent(x * squash), float("-inf"))
    return x


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Launch on the device of `tensor`, which need not be the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def with_unit_stride(matrix: Tensor) -> Tensor:
    """A matrix whose rows are contiguous, copied if they are not."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def warps_of(block: int, wide: bool = False) -> int:
    """Warps of a row kernel: 32 elements a thread, or 64 (`wide`) where they fit in the registers."""
    return 8 if block >= 2048 and not wide else 4
