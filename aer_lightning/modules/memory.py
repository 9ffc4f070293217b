"""Who holds the accelerator's memory when: the trainer and the engine share a card and take turns.

One object owns the sequence::

    make_room    gradients freed, optimizer states (and more) parked in host memory, caches emptied
                 ... the engine takes the weights: it wakes for them, not yet for its cache
    hand_over    the trainer's weights parked where asked for, caches emptied; the engine may wake its cache and generate
    take_back    the engine sleeps; what was parked returns
                 ... score and train

Parking copies a tensor's storage to host memory and frees it in place, so that every reference to it stays valid and the bytes that
return are those that left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from aer_lightning.errors import ConfigError

Offload = Literal["none", "optimizer", "all"]


class Allocator(Protocol):
    """What is asked of the device's memory.

    Attributes:
        shared: whether an engine competes for it; without that nothing is parked.
        pinned: whether host copies are page-locked.
    """

    shared: bool
    pinned: bool

    def empty_cache(self) -> None:
        """Give freed blocks back to the device."""

    def ipc_collect(self) -> None:
        """Release blocks that another process has let go of."""


class NoAllocator:
    """A CPU: the engine has its own memory and there is nothing to give back."""

    shared = pinned = False

    def empty_cache(self) -> None:
        """Nothing to do."""

    def ipc_collect(self) -> None:
        """Nothing to do."""


class CudaAllocator:
    """torch's caching allocator."""

    shared = pinned = True

    def empty_cache(self) -> None:
        """See ``Allocator``."""
        torch.cuda.empty_cache()

    def ipc_collect(self) -> None:
        """See ``Allocator``."""
        torch.cuda.ipc_collect()


class Park:
    """Tensors whose bytes wait in host memory. Host buffers are kept for the next time: page-locking them takes longer than a copy."""

    def __init__(self, pinned: bool) -> None:
        self.pinned = pinned
        self._buffers: dict[int, Tensor] = {}
        self._away: list[tuple[torch.UntypedStorage, Tensor]] = []

    def put(self, tensors: Iterable[Tensor]) -> None:
        """Copy the tensors' storages out and free them; a storage that several share goes once, one that is gone already not again."""
        for tensor in tensors:
            storage = local(tensor).untyped_storage()
            if storage.nbytes() == 0:
                continue
            buffer = self._buffers.get(storage._cdata)
            if buffer is None or buffer.numel() != storage.nbytes():
                buffer = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=self.pinned)
                self._buffers[storage._cdata] = buffer
            buffer.copy_(as_bytes(storage))
            storage.resize_(0)
            self._away.append((storage, buffer))

    def take(self) -> None:
        """Bring everything back."""
        for storage, buffer in self._away:
            storage.resize_(buffer.numel())
            as_bytes(storage).copy_(buffer)
        self._away.clear()

    @property
    def nbytes(self) -> int:
        """Bytes that wait in host memory."""
        return sum(buffer.numel() for _, buffer in self._away)


class MemorySchedule:
    """The sequence, and what each phase parks.

    Args:
        offload: ``none``; ``optimizer`` parks optimizer states while the engine generates; ``all`` parks the trained weights too.
        allocator: of the device.
        weights: gives the trainer's parameters, those of the reference included.
        optimizer_states: gives the tensors of the optimizers' states.
        free_gradients: drops the gradients.

    Attributes:
        generating: whether the device is the engine's.

    Raises:
        ConfigError: ``offload`` is none of the three.
    """

    def __init__(
        self,
        offload: Offload,
        allocator: Allocator,
        *,
        weights: Callable[[], Iterable[Tensor]],
        optimizer_states: Callable[[], Iterable[Tensor]],
        free_gradients: Callable[[], None],
    ) -> None:
        check_offload(offload)
        self.offload, self.allocator = offload, allocator
        self.weights, self.optimizer_states, self.free_gradients = weights, optimizer_states, free_gradients
        self.generating = False
        self._states, self._weights = Park(allocator.pinned), Park(allocator.pinned)

    def make_room(self) -> None:
        """Before the engine takes new weights: all that generation does not need leaves the device."""
        self.free_gradients()
        if self.allocator.shared and self.offload != "none":
            with torch.inference_mode(False):
                self._states.put(self.optimizer_states())
        self.allocator.empty_cache()
        self.allocator.ipc_collect()

    def hand_over(self) -> None:
        """Before the engine wakes its cache: the weights leave too where asked for. Does nothing while the engine has the device."""
        if self.generating:
            return
        self.generating = True
        if self.allocator.shared and self.offload == "all":
            with torch.inference_mode(False):
                self._weights.put(self.weights())
        self.allocator.ipc_collect()
        self.allocator.empty_cache()

    def take_back(self) -> None:
        """After the engine has gone to sleep, and before a checkpoint is written: what was parked returns."""
        self.generating = False
        with torch.inference_mode(False):
            self._weights.take()
            self._states.take()


def check_offload(offload: str) -> None:
    """Refuse a value that is none of the three.

    Raises:
        ConfigError: names the option.
    """
    if offload not in get_args(Offload):
        raise ConfigError(f"model.init_args.offload: must be one of {', '.join(get_args(Offload))}, got {offload!r}")


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; a plain one itself."""
    inner = getattr(tensor, "_local_tensor", tensor)
    return inner.detach()


def as_bytes(storage: torch.UntypedStorage) -> Tensor:
    """A storage as a flat uint8 tensor over the same memory."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)  # type: ignore[call-overload]


def optimizer_tensors(optimizers: Iterable[Any], device_type: str) -> list[Tensor]:
    """The tensors of some optimizers' states on a kind of device; step counters that stay on the host are left out."""
    found = []
    for optimizer in optimizers:
        for state in optimizer.state.values():
            found += [t for t in state.values() if isinstance(t, Tensor) and t.device.type == device_type and t.numel() > 1]
    return found
