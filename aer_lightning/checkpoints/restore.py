"""Reads a checkpoint folder under any strategy and number of ranks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict import set_model_state_dict, set_optimizer_state_dict

from aer_lightning.checkpoints.folder import MANIFEST, NAMES, STATE, checkpoints, verify
from aer_lightning.checkpoints.state import MODEL, OPTIMIZER, heavy_state, named_optimizer_state, optimizer_state, unpacked
from aer_lightning.errors import DataError


def is_checkpoint_folder(path: str | Path) -> bool:
    """Whether ``path`` is a checkpoint folder of this package, whole or not."""
    return any((Path(path) / name).is_file() for name in (MANIFEST, STATE))


def install(trainer: pl.Trainer) -> None:
    """Have the trainer's strategy read checkpoint folders; other checkpoints go the strategy's own way."""
    strategy = trainer.strategy
    original = strategy.load_checkpoint

    def load_checkpoint(checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(checkpoint_path)
        if not is_checkpoint_folder(path):
            return original(checkpoint_path, weights_only)
        return load(path, trainer)

    strategy.load_checkpoint = load_checkpoint  # type: ignore[method-assign]


def load(path: Path, trainer: pl.Trainer) -> dict[str, Any]:
    """A checkpoint as Lightning restores it. Under FSDP2 each rank reads its own shards, straight into the module and the optimizer."""
    checkpoint = read_state(path)
    aliases, rest = checkpoint.pop("aliases"), checkpoint.pop("optimizers")
    fitting = trainer.state.fn == "fit"
    strategy: Strategy = trainer.strategy
    if isinstance(strategy, ModelParallelStrategy):
        module = trainer.lightning_module
        _load_shards(path, module, strategy.optimizers if fitting else [], rest)
        return checkpoint
    tensors = read_tensors(path, (MODEL, OPTIMIZER) if fitting else (MODEL,))
    checkpoint["state_dict"] = weights(tensors, aliases)
    checkpoint["optimizer_states"] = [optimizer_state(i, entry, tensors) for i, entry in enumerate(rest)]
    return checkpoint


def read_state(path: Path) -> dict[str, Any]:
    """Everything of a checkpoint but its tensors; ``optimizers`` and ``aliases`` as ``heavy_state`` gave them.

    Raises:
        DataError: it cannot be read.
    """
    merged: dict[str, Any] = {}
    for name in (STATE, NAMES):
        try:
            merged |= unpacked((path / name).read_bytes())
        except OSError as error:
            raise DataError(f"{path}: {name} cannot be read ({error.strerror})") from None
        except Exception as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{path}: {name} is damaged ({said})") from None
    return merged


def read_tensors(path: Path, prefixes: Iterable[str]) -> dict[str, Tensor]:
    """Full tensors of a checkpoint whose names begin with one of ``prefixes``, on the CPU. Each rank reads for itself."""
    chosen = tuple(prefixes)
    described = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    tensors: dict[str, Any] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)  # type: ignore[union-attr]
        for name, entry in described.items()
        if name.startswith(chosen)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group is the point
        dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    return tensors


def weights(tensors: dict[str, Tensor], aliases: dict[str, str]) -> dict[str, Tensor]:
    """The module's weights by its own names, out of a checkpoint's tensors; tied ones under each of their names."""
    found = {name: tensor for name, tensor in tensors.items() if name.startswith(MODEL)}
    found |= {name: found[other] for name, other in aliases.items()}
    return {name.removeprefix(MODEL): tensor for name, tensor in found.items()}


def _load_shards(path: Path, module: pl.LightningModule, optimizers: list[Any], rest: list[dict[str, Any]]) -> None:
    """Read in place; the planner cuts the stored shards to those of this mesh."""
    tensors, live = heavy_state(module, optimizers)
    _check_names(path, tensors)
    dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(path)))
    state: Any = weights(tensors, live["aliases"])
    set_model_state_dict(module, state)
    for i, optimizer in enumerate(optimizers):
        state = {"state": named_optimizer_state(i, rest[i], tensors), "param_groups": rest[i]["groups"]}
        set_optimizer_state_dict(module, optimizer, state)


def _check_names(path: Path, tensors: dict[str, Tensor]) -> None:
    described = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    for name, tensor in tensors.items():
        found = described.get(name)
        if found is None:
            raise DataError(f"ckpt_path: {path} has no {name}; it is a checkpoint of another model or optimizer")
        if tuple(found.size) != tuple(tensor.shape):  # type: ignore[union-attr]
            raise DataError(f"ckpt_path: {name} is {list(found.size)} in {path} and {list(tensor.shape)} in this model")  # type: ignore[union-attr]


def check_path(path: str | Path) -> None:
    """Refuse what ``--ckpt_path`` cannot be, before a model is loaded.

    Raises:
        DataError: one line that names the path and what is wrong with it.
    """
    place = Path(path)
    if not place.exists():
        raise DataError(f"ckpt_path: no file {path}; give a checkpoint from a run's checkpoints folder, or use --resume auto")
    if is_checkpoint_folder(place):
        verify(place)
    elif place.is_dir():
        hint = f"; did you mean {found[0]}?" if (found := checkpoints(place) or checkpoints(place / "checkpoints")) else ""
        raise DataError(f"ckpt_path: {path} is a folder and no checkpoint{hint}")
    else:
        _check_file(place)


def _check_file(path: Path) -> None:
    import pickle
    import zipfile

    try:
        if not zipfile.is_zipfile(path):
            raise DataError(f"ckpt_path: {path} is no checkpoint, or it is cut short")
        found = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise DataError(f"ckpt_path: {path} cannot be read as a checkpoint ({str(error).splitlines()[0]})") from None
    if not isinstance(found, dict) or "state_dict" not in found:
        raise DataError(f"ckpt_path: {path} is no checkpoint of a run; it has no state_dict")
