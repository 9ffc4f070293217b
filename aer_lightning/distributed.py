"""The few collectives this package needs, each the identity on one process."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def is_distributed() -> bool:
    """Whether a process group with more than one rank is running."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def sum_over_ranks(values: Sequence[float], device: torch.device | str = "cpu") -> list[float]:
    """Element-wise sum over all ranks, in fp64 so that sums of counts are exact and sums of nats agree to 1e-12.

    Args:
        values: the same number of floats on every rank.
        device: where the backend reduces (CPU for gloo, the rank's GPU for nccl).
    """
    if not is_distributed():
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def max_over_ranks(values: Sequence[float], device: torch.device | str = "cpu") -> list[float]:
    """Element-wise maximum over all ranks."""
    if not is_distributed():
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor.tolist()


def gather_objects(value: T) -> list[T]:
    """The value of every rank, in rank order, on every rank."""
    if not is_distributed():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def exchange(outgoing: Sequence[Sequence[T]]) -> list[T]:
    """Hand objects to other ranks: what each rank receives, in the order of the senders. Nothing goes to a rank that does not keep it.

    Args:
        outgoing: for each rank, what it gets from this one.

    Example (one process keeps its own):
        >>> exchange([["a", "b"]])
        ['a', 'b']
    """
    if not is_distributed():
        return list(outgoing[0])
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    parts = [pickle.dumps(list(objects), protocol=pickle.HIGHEST_PROTOCOL) for objects in outgoing]
    sizes = torch.tensor([len(part) for part in parts], dtype=torch.long, device=device)
    arriving = torch.empty_like(sizes)
    dist.all_to_all_single(arriving, sizes)
    sent = torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.uint8).to(device)
    got = torch.empty(int(arriving.sum()), dtype=torch.uint8, device=device)
    dist.all_to_all_single(got, sent, arriving.tolist(), sizes.tolist())
    received: list[T] = []
    for part in got.cpu().split(arriving.tolist()):
        received += pickle.loads(part.numpy().tobytes())
    return received
