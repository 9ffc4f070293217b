"""The chunked backend never holds more than its workspace: every allocation of both passes is counted."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aer_lightning.kernels import chunked
from aer_lightning.kernels.linear import Factors

MIB = 1 << 20


class Allocations(TorchDispatchMode):
    """Bytes of the storages that operations create, alive and at the most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = self.largest = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self.seen.add(leaf.untyped_storage()._cdata)
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if not isinstance(leaf, torch.Tensor) or leaf.untyped_storage()._cdata in self.seen:
                continue
            storage = leaf.untyped_storage()
            self.seen.add(storage._cdata)
            size = storage.nbytes()
            self.alive += size
            self.peak, self.largest = max(self.peak, self.alive), max(self.largest, size)
            weakref.finalize(storage, self._free, size, storage._cdata)
        return result

    def _free(self, size: int, identity: int) -> None:
        self.alive -= size
        self.seen.discard(identity)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("workspace", [1, 4])
@pytest.mark.parametrize("cached", [False, True])
def test_extra_memory_is_bounded(dtype: torch.dtype, workspace: int, cached: bool) -> None:
    rows, width, vocabulary = 512, 32, 20_000  # logits: 39 MiB in fp32
    hidden, weight = torch.randn(rows, width).to(dtype), torch.randn(vocabulary, width).to(dtype)
    targets = torch.randint(0, vocabulary, (rows,))
    bytes_allowed = workspace * MIB
    columns = chunked.plan_cache(hidden, weight, bytes_allowed) if cached else 0
    with Allocations() as forward:
        cache, tiles = chunked.allocate_cache(hidden, weight, columns)
        partials = chunked.linear_partials(hidden, weight, None, targets, 1.0, bytes_allowed, cache, tiles)
    statistics = chunked.finish(partials, 1.0)
    per_row = 4 * 66 * 4 * rows  # slots of partial statistics
    assert forward.peak <= bytes_allowed + per_row
    factors = Factors(1.0, statistics.maximum, statistics.log_sum, statistics.entropy, torch.ones(rows), torch.ones(rows))
    with Allocations() as backward:
        grads = chunked.linear_backward(hidden, weight, None, targets, factors, cache, tiles, bytes_allowed, (True, True, False))
    assert grads[0] is not None and grads[1] is not None
    results = rows * width * 4 + weight.numel() * weight.element_size()
    allowed = bytes_allowed - cache.numel() * 4
    assert backward.peak <= results + allowed + 64 * rows + (hidden.numel() * 4 if dtype != torch.float32 else 0)
    assert (columns > 0) == cached and columns < vocabulary
