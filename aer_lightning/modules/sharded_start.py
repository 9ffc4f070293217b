"""A sharded network straight from its files: parameters begin without storage, and each rank reads its own rows from safetensors.

No process ever holds more than its shards and the rows it is reading.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aer_lightning.modules.adapters import base_name, initial_value, is_adapter


def weight_files(folder: Path) -> dict[str, Path]:
    """The safetensors file that holds each weight of a model folder; empty where there are none."""
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    with suppress(OSError, ValueError, KeyError, SafetensorError):
        if index.is_file():
            return {name: folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
        with safe_open(folder / "model.safetensors", "pt") as file:
            return dict.fromkeys(file.keys(), folder / "model.safetensors")
    return {}


@contextmanager
def without_storage() -> Iterator[None]:
    """Parameters made in here have a shape and a dtype and no memory; buffers are real, because most are in no file."""
    from accelerate import init_empty_weights

    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        yield


def unreadable(model: Any, files: dict[str, Path]) -> str | None:
    """Why the weights of an empty model cannot be read from ``files`` one by one; None if they can.

    A name counts as there if the file has it or that of another weight it is tied to.
    """
    from safetensors import safe_open

    if not files:
        return "there are no safetensors"
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(set(files.values())):
        with safe_open(path, "pt") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    for names, tensor in held(model):
        found = [name for name in map(base_name, names) if name in shapes]
        if not any(is_adapter(name) for name in names) and (not found or shapes[found[0]] != tuple(tensor.shape)):
            return f"its files have no {names[0]} of this shape"
    return None


def held(model: Any) -> list[tuple[list[str], Tensor]]:
    """Every parameter and persistent buffer once, with all names it goes by."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    return [(names[key], tensor) for key, tensor in tensors.items()]


def read_shards(network: Any, files: dict[str, Path], device: torch.device, seed: int) -> None:
    """Fill a network that was sharded while empty, in place; tied weights stay one.

    Args:
        network: a ``PolicyNetwork`` under ``fully_shard``.
        files: of each weight, as ``weight_files`` gives them.
        device: of the shards.
        seed: of fresh adapters.
    """
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    state: dict[str, Tensor] = {}
    for names, tensor in held(network.model):
        if not isinstance(tensor, DTensor):
            whole = _rows(files, names, 0, None, tensor.shape, seed).to(device, tensor.dtype)
            state |= dict.fromkeys(names, whole)
            continue
        shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        rows = _rows(files, names, offset[0], offset[0] + shape[0], tensor.shape, seed).to(device, tensor.dtype)
        shard = DTensor.from_local(
            rows.contiguous(), tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
        )
        state |= dict.fromkeys(names, nn.Parameter(shard, requires_grad=tensor.requires_grad))
    network.model.load_state_dict(state, assign=True)


def _rows(files: dict[str, Path], names: list[str], first: int, last: int | None, shape: torch.Size, seed: int) -> Tensor:
    """Rows of a weight by any of its names. The file is opened each time, so that pages that were read do not stay mapped."""
    from safetensors import safe_open

    if is_adapter(names[0]):
        return initial_value(names[0], shape, seed)[first:last].clone()  # not a view of the whole
    name = next(n for n in map(base_name, names) if n in files)
    with safe_open(files[name], "pt") as file:
        if not shape:
            return file.get_tensor(name)
        # A copy: what comes out of the file is a view of it.
        return file.get_slice(name)[first : shape[0] if last is None else last].clone()
