"""Counter-based random numbers: a number belongs to (seed, sequence, position), whatever the batch it is drawn in."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF


def _multiply32(value: Tensor, constant: int) -> Tensor:
    # In two halves, because the product of two 32-bit numbers does not fit into int64.
    return (value * (constant & 0xFFFF) + (((value * (constant >> 16)) & 0xFFFF) << 16)) & _MASK32


def _mix32(value: Tensor) -> Tensor:
    """Scramble 32-bit integers one to one, with good avalanche: C. Wellons' "lowbias32" constants."""
    value = _multiply32(value ^ (value >> 16), 0x7FEB352D)
    value = _multiply32(value ^ (value >> 15), 0x846CA68B)
    return value ^ (value >> 16)


def counter_uniform(seed: int, sequence_index: Tensor, length: int) -> Tensor:
    """[B, length] fp32 numbers in [0, 1), a function of (seed, sequence_index[b], t) alone; the same on every device.

    Args:
        seed: any integer; its low 64 bits are used.
        sequence_index: [B] int64, at least 0.
        length: T.
    """
    index = sequence_index.to(torch.int64)
    state = torch.full_like(index, seed & _MASK32)
    for word in (torch.full_like(index, (seed >> 32) & _MASK32), index & _MASK32, (index >> 32) & _MASK32):
        state = _mix32((_mix32(state) + word) & _MASK32)
    position = torch.arange(length, dtype=torch.int64, device=index.device)
    mixed = _mix32((state[:, None] + _mix32(position)[None, :]) & _MASK32)
    # 24 bits are what fp32 holds exactly; more could round up to 1.
    return (mixed >> 8).to(torch.float32) / (1 << 24)
