"""What is wrapped under FSDP and FSDP2, and how full weights come back out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from aer_lightning.distributed import sum_over_ranks


def decoder_layers(model: Any) -> list[nn.Module]:
    """The transformer blocks of a Hugging Face model: the units of sharding and of activation checkpointing."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [m for m in model.modules() if type(m).__name__ in names]


def shard_fsdp2(network: nn.Module, mesh: Any, *, param_dtype: torch.dtype | None = None) -> None:
    """Shard each decoder layer and then the rest (embedding, norm, head) over ``mesh``, in place.

    Args:
        network: a ``PolicyNetwork``; its ``forward`` gathers embedding and head together.
        mesh: the data-parallel device mesh.
        param_dtype: dtype of gathered parameters and of the matrix products; gradients are reduced in fp32. None keeps the
            parameters' own dtype.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=torch.float32) if param_dtype else MixedPrecisionPolicy()
    for layer in decoder_layers(network.model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)


def wrap_fsdp1(network: nn.Module) -> None:
    """Wrap each decoder layer where an ``FSDPStrategy`` is setting the model up; without one, do nothing."""
    from torch.distributed.fsdp.wrap import wrap

    layers = set(decoder_layers(network.model))
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child in layers:
                setattr(parent, name, wrap(child))


def is_fsdp1(module: nn.Module | None) -> bool:
    """Whether ``module`` is wrapped by the first-generation FSDP."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    return isinstance(module, FullyShardedDataParallel)


def full_state(network: Any, wrapper: Any = None) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, full tensor) of the Hugging Face model, one at a time, so that only one gathered weight is alive.

    Collective: every rank has to run it to the end.

    Args:
        network: a ``PolicyNetwork``, plain or sharded by ``fully_shard``.
        wrapper: the strategy's root module where that is FSDP1; its weights are gathered in one go.
    """
    if is_fsdp1(wrapper):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        prefix = "policy.model."  # the strategy wraps the whole LightningModule
        state: dict[str, Any] = get_model_state_dict(wrapper, options=StateDictOptions(full_state_dict=True))
        yield from ((name.removeprefix(prefix), tensor) for name, tensor in state.items() if name.startswith(prefix))
        return
    for name, tensor in network.model.state_dict().items():
        yield name, tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach()


def gradient_norm(module: nn.Module, wrapper: Any = None) -> float:
    """2-norm of the gradient before clipping, over all ranks' shards. Collective under sharding.

    Args:
        module: whose parameters have gradients.
        wrapper: the strategy's root module, which tells FSDP1 from the others.
    """
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if not gradients:
        return 0.0
    norm = torch.nn.utils.get_total_norm(gradients)
    if is_fsdp1(wrapper):
        return sum_over_ranks([float(norm) ** 2], gradients[0].device)[0] ** 0.5
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
