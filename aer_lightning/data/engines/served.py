"""Reads weights back from a model that vLLM serves, under the names of the Hugging Face state dict.

vLLM renames modules, stacks some (query, key and value; gate and up) and, on a CPU, packs matrices into a form that cannot be read. A
packed matrix still multiplies: its product with unit vectors is its columns, to the bit.
"""

from __future__ import annotations

from typing import Any

import torch

from aer_lightning.data.engines.checksum import digest, sampled_columns


def served_checksums(model: torch.nn.Module, shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Checksums of the weights in ``shapes`` (name -> shape in the state dict); what cannot be read back is left out."""
    modules = dict(model.named_modules())
    read = {name: _read(model, modules, name, shape) for name, shape in shapes.items()}
    return {name: digest(part) for name, part in read.items() if part is not None}


@torch.no_grad()
def _read(model: Any, modules: dict[str, Any], name: str, shape: tuple[int, ...]) -> torch.Tensor | None:
    """What is sampled of one weight, or None."""
    place = _locate(model, modules, name)
    if place is None:
        return None
    module, leaf, first = place
    parameter = getattr(module, leaf, None)
    rows = slice(first, first + shape[0])
    if not isinstance(parameter, torch.Tensor):
        return None
    if len(shape) == 1:
        return parameter[rows] if parameter.ndim == 1 and parameter.shape[0] >= rows.stop else None
    if len(shape) != 2:
        return None
    columns = sampled_columns(shape[1])
    if parameter.ndim == 2 and parameter.shape[1] == shape[1] and parameter.shape[0] >= rows.stop:
        return parameter[rows][:, columns]
    method = getattr(module, "quant_method", None)
    if parameter.numel() or method is None or leaf != "weight":
        return None
    unit = torch.zeros(len(columns), shape[1], dtype=parameter.dtype, device=parameter.device)
    unit[torch.arange(len(columns)), columns] = 1
    product = method.apply(module, unit, None)  # without the bias
    return product[:, rows].T if product.shape[1] >= rows.stop else None


def _locate(model: Any, modules: dict[str, Any], name: str) -> tuple[Any, str, int] | None:
    """The module that holds a weight, the name of its parameter, and the weight's first row in it."""
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    mapped = name if mapper is None else mapper.map_name(name)
    if mapped is None:
        return None
    path, _, leaf = mapped.rpartition(".")
    original = name.split(".")[-2] if "." in name else ""
    for stacked, parts in (getattr(model, "packed_modules_mapping", None) or {}).items():
        if original in parts and len(parts) > 1:
            parent = path.rpartition(".")[0]
            module = modules.get(f"{parent}.{stacked}" if parent else stacked)
            sizes = getattr(module, "output_sizes", None)
            if sizes is None:
                return None
            return module, leaf, sum(sizes[: parts.index(original)])
    module = modules.get(path)
    return None if module is None else (module, leaf, 0)
