"""FSDP2 as a Lightning strategy: one dimension of shards over all processes of all nodes."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy


class FSDP2Strategy(ModelParallelStrategy):
    """``ModelParallelStrategy`` that shards over every process, whatever ``trainer.devices`` and ``trainer.num_nodes`` come to.

    Lightning's own takes the number of nodes as the size of the data-parallel dimension where it is told ``auto``, and cannot follow
    ``devices: auto``.

    Args:
        save_distributed_checkpoint: write one file per rank; False writes one ordinary file, which any strategy resumes.
        kwargs: for ``ModelParallelStrategy``.
    """

    def __init__(self, save_distributed_checkpoint: bool = False, **kwargs: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint, **kwargs)

    def setup_environment(self) -> None:
        """Size the mesh once the number of processes is known."""
        if self._data_parallel_size == "auto":
            self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def named_strategy(strategy: Any) -> Any:
    """What ``trainer.strategy`` means here: ``fsdp`` and ``fsdp2`` are FSDP2; anything else is Lightning's."""
    return FSDP2Strategy() if strategy in ("fsdp", "fsdp2") else strategy
