"""FSDP2 as a Lightning strategy: shards over all processes of all nodes, or copies of shards."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy

from aer_lightning.errors import ConfigError


class FSDP2Strategy(ModelParallelStrategy):
    """``ModelParallelStrategy`` that shards over every process, whatever ``trainer.devices`` and ``trainer.num_nodes`` come to.

    Lightning's own takes the number of nodes as the size of the data-parallel dimension where it is told ``auto``, and cannot follow
    ``devices: auto``.

    Args:
        replicas: copies of the model, each sharded over world size / ``replicas`` processes that follow one another (HSDP): one a
            node keeps the gathering of weights within nodes, and only gradients cross them.
        save_distributed_checkpoint: write one file per rank; False writes one ordinary file, which any strategy resumes.
        kwargs: for ``ModelParallelStrategy``.

    Raises:
        ConfigError: the processes are no multiple of ``replicas``.
    """

    def __init__(self, replicas: int = 1, save_distributed_checkpoint: bool = False, **kwargs: Any) -> None:
        if replicas < 1:
            raise ConfigError(f"trainer.strategy.init_args.replicas: {replicas} copies of the model cannot be trained; give at least 1")
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint, **kwargs)
        self.replicas = replicas

    def setup_environment(self) -> None:
        """Size the mesh once the number of processes is known."""
        size = self.num_nodes * self.num_processes
        if size % self.replicas:
            raise ConfigError(
                f"trainer.strategy.init_args.replicas: {size} processes (devices x num_nodes) cannot be dealt to {self.replicas} copies"
            )
        if self._data_parallel_size == "auto":
            self._data_parallel_size = size
        super().setup_environment()
        if self.replicas > 1:
            from torch.distributed.device_mesh import init_device_mesh

            shape = (self.replicas, size // self.replicas, 1)
            self._device_mesh = init_device_mesh(
                self.root_device.type, shape, mesh_dim_names=("replicate", "data_parallel", "tensor_parallel")
            )
            self.lightning_module._device_mesh = self._device_mesh  # type: ignore[union-attr]

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Every process has samples of its own."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}


def named_strategy(strategy: Any) -> Any:
    """What ``trainer.strategy`` means here: ``fsdp`` and ``fsdp2`` are FSDP2; anything else is Lightning's."""
    return FSDP2Strategy() if strategy in ("fsdp", "fsdp2") else strategy
