"""How weights get from the trainer's process to the worker's without a copy through a pipe or a file.

On a CPU through a piece of memory that both processes map, on a GPU by handles to the trainer's own memory (CUDA IPC). Either way in
buckets, so that what lies between the two stays small; both have the same two ends: ``export`` here, ``open`` in the worker.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Handle = tuple[Any, ...]
Bucket = list[tuple[str, "torch.Tensor"]]

_ALIGNMENT = 64  # bytes


def aligned_bytes(elements: int, itemsize: int) -> int:
    """Bytes of a tensor, rounded up so that the next one starts aligned.

    >>> aligned_bytes(3, 4), aligned_bytes(32, 2), aligned_bytes(33, 2)
    (64, 64, 128)
    """
    return -(-elements * itemsize // _ALIGNMENT) * _ALIGNMENT


class SharedMemory:
    """Anonymous memory of ``capacity`` bytes; a child maps it from the inherited file descriptor ``fd``.

    It has no name and lies on no disk, does not count against the size of /dev/shm (64 MiB in many containers), and ends with the last
    process that maps it. Where the system has no such memory it is a temporary file without a name.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = max(capacity, 1)
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("aer-lightning-weights")
        else:
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())
        os.ftruncate(self.fd, self.capacity)
        self._map = mmap.mmap(self.fd, self.capacity)

    def export(self, bucket: Bucket) -> list[tuple[str, Handle]]:
        """Copy the tensors in; a handle is (offset in bytes, shape, name of the type).

        Raises:
            ValueError: they do not fit.
        """
        import torch

        handles: list[tuple[str, Handle]] = []
        offset = 0
        for name, tensor in bucket:
            size = aligned_bytes(tensor.numel(), tensor.element_size())
            if offset + size > self.capacity:
                raise ValueError(f"{name}: a bucket of more than {self.capacity} bytes")
            torch.frombuffer(self._map, dtype=tensor.dtype, count=tensor.numel(), offset=offset).copy_(tensor.reshape(-1))
            handles.append((name, (offset, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))))
            offset += size
        return handles

    def release(self) -> None:
        """The worker has its copy: the memory is free for the next bucket."""

    def close(self) -> None:
        """Give the memory back as soon as the worker has ended too. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._map.close()


class CudaMemory:
    """Handles to tensors of the trainer on ``device``, which stay where they are."""

    def __init__(self, device: torch.device, capacity: int) -> None:
        self.device, self.capacity = device, capacity

    def export(self, bucket: Bucket) -> list[tuple[str, Handle]]:
        """Handles are the arguments of ``torch.multiprocessing.reductions.rebuild_cuda_tensor``."""
        import torch
        from torch.multiprocessing.reductions import reduce_tensor

        placed = [(name, tensor.to(self.device).contiguous()) for name, tensor in bucket]
        torch.cuda.synchronize(self.device)  # what computes them must have ended before another process reads
        return [(name, reduce_tensor(tensor)[1]) for name, tensor in placed]

    def release(self) -> None:
        """The worker has its copy: free what only its handles kept alive, before the next bucket is gathered."""
        import torch

        torch.cuda.ipc_collect()

    def close(self) -> None:
        """Nothing of its own to give back."""


class SharedReader:
    """The worker's end of :class:`SharedMemory`."""

    def __init__(self, fd: int, capacity: int) -> None:
        self._map = mmap.mmap(fd, capacity)
        os.close(fd)

    def open(self, handle: Handle) -> torch.Tensor:
        """A copy, because the memory is written again before vLLM has used every tensor of an unfinished layer."""
        import torch

        offset, shape, dtype = handle
        view = torch.frombuffer(self._map, dtype=getattr(torch, dtype), count=math.prod(shape), offset=offset)
        return view.reshape(shape).clone()

    def finish(self) -> None:
        """All tensors of a bucket are copied."""


class CudaReader:
    """The worker's end of :class:`CudaMemory`."""

    def open(self, handle: Handle) -> torch.Tensor:
        """A copy in the worker's memory, for the reason given in :meth:`SharedReader.open`."""
        import torch
        from torch.multiprocessing.reductions import rebuild_cuda_tensor

        # argument 6 is the trainer's index of the device, which is not ours where CUDA_VISIBLE_DEVICES differs
        return rebuild_cuda_tensor(*(*handle[:6], torch.cuda.current_device(), *handle[7:])).clone()

    def finish(self) -> None:
        """All tensors of a bucket are copied: wait for it, and close the handles so that the trainer can free them."""
        import torch

        torch.cuda.synchronize()
        torch.cuda.ipc_collect()
