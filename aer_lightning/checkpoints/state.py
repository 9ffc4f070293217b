"""What a checkpoint holds, by names that no strategy and no number of ranks changes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer import call
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.optim import Optimizer

from aer_lightning.errors import DataError

MODEL = "model."
OPTIMIZER = "optimizer."


def light_state(trainer: pl.Trainer) -> dict[str, Any]:
    """Everything of a run but weights and optimizer: loops, callbacks, data, schedulers, precision. Collective.

    The keys are those of Lightning's checkpoints, so that Lightning restores them. Later steps do not change what it holds.
    """
    checkpoint: dict[str, Any] = {
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "pytorch-lightning_version": pl.__version__,
        "loops": trainer._checkpoint_connector._get_loops_state_dict(),
        "callbacks": call._call_callbacks_state_dict(trainer),
        "lr_schedulers": [deepcopy(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs],
    }
    if trainer.lightning_module.hparams:
        checkpoint["hyper_parameters"] = dict(trainer.lightning_module.hparams)
    if state := trainer.precision_plugin.state_dict():
        checkpoint[type(trainer.precision_plugin).__qualname__] = state
    data = trainer.datamodule  # type: ignore[attr-defined]
    if data is not None and (state := call._call_lightning_datamodule_hook(trainer, "state_dict")):
        checkpoint[type(data).__qualname__] = state
    call._call_callbacks_on_save_checkpoint(trainer, checkpoint)
    call._call_lightning_module_hook(trainer, "on_save_checkpoint", checkpoint)
    return checkpoint


def packed(state: Any) -> bytes:
    """A state as bytes, which later steps cannot change any more."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpacked(content: bytes) -> Any:
    """The inverse of ``packed``; plain values and tensors only, no code is run."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def heavy_state(module: pl.LightningModule, optimizers: Sequence[Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and optimizer states, as references to the live tensors (shards where the module is sharded).

    Args:
        module: of the run.
        optimizers: its optimizers.

    Returns:
        Tensors by name: ``model.<weight>``, ``optimizer.<i>.<weight>.<state>``, tied ones once. And what is no tensor: ``aliases``, the
        name of the tensor that a tied weight shares; ``optimizers``, for each its ``groups`` with the weights' names under ``params``,
        and ``values`` by weight and state.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    weights: Any = get_model_state_dict(module)
    for name, tensor in weights.items():
        local = getattr(tensor, "_local_tensor", tensor)
        place = (local.data_ptr(), local.shape, local.stride()) if local.numel() else name
        if (other := first.setdefault(place, MODEL + name)) == MODEL + name:
            tensors[other] = tensor
        else:
            aliases[MODEL + name] = other
    rest: list[dict[str, Any]] = []
    for i, optimizer in enumerate(optimizers):
        state: Any = get_optimizer_state_dict(module, optimizer)
        values: dict[str, dict[str, Any]] = {}
        for weight, entries in state["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"{OPTIMIZER}{i}.{weight}.{name}"] = value
                else:
                    values.setdefault(weight, {})[name] = value
        rest.append({"groups": state["param_groups"], "values": values})
    return tensors, {"aliases": aliases, "optimizers": rest}


def named_optimizer_state(index: int, rest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """States of one optimizer by weight and name, out of the tensors of a checkpoint and ``rest``, its entry of ``optimizers``."""
    states: dict[str, dict[str, Any]] = {weight: dict(values) for weight, values in rest["values"].items()}
    prefix = f"{OPTIMIZER}{index}."
    for key, tensor in tensors.items():
        if key.startswith(prefix):
            weight, name = key.removeprefix(prefix).rsplit(".", 1)
            states.setdefault(weight, {})[name] = tensor
    return states


def optimizer_state(index: int, rest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """``state_dict`` of a plain torch optimizer out of the tensors of a checkpoint: weights by their number, not their name."""
    groups: list[dict[str, Any]] = []
    numbers: dict[str, int] = {}
    for group in rest["groups"]:
        numbers.update({name: len(numbers) + n for n, name in enumerate(group["params"])})
        groups.append({**group, "params": [numbers[name] for name in group["params"]]})
    states = named_optimizer_state(index, rest, tensors)
    return {"state": {numbers[weight]: entries for weight, entries in states.items()}, "param_groups": groups}


def check_parts(trainer: pl.Trainer, checkpoint: Mapping[str, Any], where: str, tolerated: Sequence[str] = ()) -> None:
    """Refuse a checkpoint that lacks the state of a part of this run. Collective.

    Args:
        trainer: with the callbacks and data of this run.
        checkpoint: what was loaded.
        where: its path, for the message.
        tolerated: names of callbacks that may be new.

    Raises:
        DataError: names what is missing.
    """
    saved = checkpoint.get("callbacks", {})
    missing = [
        callback.state_key
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if callback.state_key not in saved and type(callback).__name__ not in tolerated and callback.state_dict()
    ]
    data = type(trainer.datamodule).__qualname__  # type: ignore[attr-defined]
    needed = [data, "loops", "lr_schedulers", "weight_version"]
    missing += [key for key in needed if key not in checkpoint]
    if missing:
        raise DataError(
            f"ckpt_path: {where} has no state of {', '.join(missing)}, so the run would not go on as it was; "
            "use a checkpoint of a run with the same parts"
        )
