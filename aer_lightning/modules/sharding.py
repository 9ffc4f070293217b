"""What FSDP2 shards, how full weights come back out, and which strategies and precisions would train something else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from aer_lightning.errors import ConfigError
from aer_lightning.modules.adapters import adapted, base_name, base_state, dequantized, factors, is_adapter, merged


def check_strategy(trainer: Any) -> None:
    """Refuse what would run and be wrong.

    Raises:
        ConfigError: the first generation of FSDP, tensor parallelism, weights held in half precision, or fp16 under FSDP2.
    """
    from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

    strategy, precision = trainer.strategy, str(trainer.precision)
    if isinstance(strategy, FSDPStrategy):
        raise ConfigError(
            "trainer.strategy: the first generation of FSDP casts positions and log-probabilities to half precision; use FSDP2: "
            "-c configs/strategy/fsdp.yaml, or --trainer.strategy fsdp"
        )
    if isinstance(strategy, ModelParallelStrategy) and strategy._tensor_parallel_size not in (1, "auto"):
        raise ConfigError(
            f"trainer.strategy.init_args.tensor_parallel_size: {strategy._tensor_parallel_size} would train as many different models; "
            "use 1 and shard with data_parallel_size"
        )
    if precision == "16-mixed" and isinstance(strategy, ModelParallelStrategy):
        raise ConfigError(
            "trainer.precision: 16-mixed scales a loss whose gradients FSDP2 holds in shards, which is not tested; use bf16-mixed"
        )
    if precision.endswith("-true") and precision not in ("32-true", "64-true"):
        raise ConfigError(
            f"trainer.precision: {precision} rounds the weights' updates away and RoPE's frequencies with them; use "
            f"{'bf16' if 'bf16' in precision else '16'}-mixed"
        )


def decoder_layers(model: Any) -> list[nn.Module]:
    """The transformer blocks of a Hugging Face model: the units of sharding, of compilation and of activation checkpointing."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [m for m in model.modules() if type(m).__name__ in names]


def sharding_mesh(device_mesh: Any) -> Any:
    """The dimensions of a strategy's mesh that FSDP2 gets: shards, and copies of them where there are several."""
    copies = "replicate" in device_mesh.mesh_dim_names
    return device_mesh["replicate", "data_parallel"] if copies else device_mesh["data_parallel"]


def shard_fsdp2(network: nn.Module, mesh: Any, *, param_dtype: torch.dtype | None = None) -> None:
    """Shard each decoder layer and then the rest (embedding, norm, head) over ``mesh``, in place.

    Args:
        network: a ``PolicyNetwork``; its ``forward`` gathers embedding and head together.
        mesh: of shards, or of copies x shards (HSDP).
        param_dtype: dtype of gathered parameters and of the matrix products; gradients are reduced in fp32. None keeps the
            parameters' own dtype.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=torch.float32) if param_dtype else MixedPrecisionPolicy()
    for layer in decoder_layers(network.model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)


def full_state(network: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, full tensor) of the Hugging Face model, one at a time, so that only one gathered weight is alive.

    Adapters come merged into the weights they change, in fp32, under the base model's names. Collective: every rank has to run it to
    the end. Works under ``inference_mode``, in which sharded tensors cannot be read.

    Args:
        network: a ``PolicyNetwork``, plain or sharded by ``fully_shard``.
    """
    model, layers = network.model, adapted(network.model)
    with torch.inference_mode(False), torch.no_grad():
        state = base_state(model)
    for name, tensor in state.items():
        with torch.inference_mode(False), torch.no_grad():
            whole = dequantized(full(tensor))
            if (layer := layers.get(name)) is not None:
                a, b = (full(t) for t in factors(layer))
                whole = merged(whole, a, b, network.lora.scaling, transposed=layer.fan_in_fan_out)
        yield base_name(name), whole


def full_adapters(network: Any) -> dict[str, Tensor]:
    """Whole adapter tensors by the network's names, on the CPU; collective under sharding."""
    with torch.inference_mode(False), torch.no_grad():
        return {name: full(tensor).detach().cpu() for name, tensor in network.state_dict().items() if is_adapter(name)}


def full(tensor: Tensor) -> Tensor:
    """A whole tensor of a shard; collective where it is one."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
