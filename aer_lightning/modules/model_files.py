"""A Hugging Face folder before it is loaded: its configuration is of a causal LM, and its weights are all there and whole.

Only the headers of weight files are read, which takes milliseconds whatever the size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aer_lightning.errors import DataError

FLOATS = ("F64", "F32", "F16", "BF16")
INDEX = "model.safetensors.index.json"
OTHER_HEADS = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


def check_causal_lm(folder: Path, config: dict[str, Any], option: str) -> None:
    """Refuse a model of another kind. One that comes with its own code is left to that.

    Raises:
        DataError: names the folder and what its configuration says.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, classes = config.get("model_type"), config.get("architectures") or []
    if "auto_map" in config or not kind:
        return
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (classes and all(str(c).endswith(OTHER_HEADS) for c in classes)):
        said = f"model_type {kind}" + (f", {', '.join(map(str, classes))}" if classes else "")
        raise DataError(f"{option}: {folder} is no causal language model ({said}); give one whose architecture ends with ForCausalLM")


def check_weight_files(folder: Path, option: str) -> None:
    """Refuse safetensors that are missing, cut short, or hold integers in place of weights.

    Raises:
        DataError: names the file.
    """
    from safetensors import SafetensorError, safe_open

    wanted = _indexed(folder / INDEX, option)
    for name in sorted({*wanted.values(), *(path.name for path in folder.glob("*.safetensors"))}):
        path = folder / name
        if not path.is_file():
            raise DataError(f"{option}: {path} is missing, but {INDEX} names it; copy or save the model again")
        try:
            with safe_open(path, "pt") as file:
                held = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
                whole = {key: (str(s.get_dtype()), list(s.get_shape())) for key, s in held.items()}
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(f"{option}: {path} cannot be read, it is damaged or cut short ({_line(error)}); copy it again") from None
        lost = sorted(key for key, file in wanted.items() if file == name and key not in whole)
        if lost:
            raise DataError(f"{option}: {path} has no {lost[0]}, but {INDEX} says so; copy or save the model again")
        for key, (dtype, shape) in whole.items():
            if len(shape) > 1 and dtype not in FLOATS:
                raise DataError(
                    f"{option}: {key} in {path} is {dtype}, a quantized weight, which cannot be trained; give it in bf16, fp16 or fp32"
                )


def check_nothing_missing(folder: str, info: dict[str, Any], option: str = "model.init_args.pretrained") -> None:
    """Refuse a model of which some weights were in no file: transformers makes those up at random.

    Args:
        folder: of the model.
        info: what transformers' ``output_loading_info`` gives.
        option: for the message.

    Raises:
        DataError: names the first.
    """
    missing = sorted(map(str, info.get("missing_keys") or ()))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{option}: {folder} has no weights for {missing[0]}{more}; random ones would take their place; save it again")
    mismatched = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in info.get("mismatched_keys") or ())
    if mismatched:
        raise DataError(f"{option}: {mismatched[0]} of {folder} has another shape than config.json says; save the model again")


def check_finite(folder: str, weights: Iterable[tuple[str, Tensor]], option: str = "model.init_args.pretrained") -> None:
    """Refuse weights that are NaN or infinite; one pass over them.

    Raises:
        DataError: names the first.
    """
    for name, tensor in weights:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        if not local.is_floating_point() or local.is_meta or not local.numel():
            continue
        # The sum of finite values may overflow; it says for certain only that nothing is wrong.
        if not math.isfinite(float(local.detach().sum())) and not bool(torch.isfinite(local).all()):
            raise DataError(f"{option}: {name} of {folder} holds NaN or infinity; save the model again, or take an earlier one")


def _indexed(index: Path, option: str) -> dict[str, str]:
    """File by weight, as the index of a model in several files says; empty where it is in one."""
    if not index.is_file():
        return {}
    try:
        return {str(key): str(file) for key, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{option}: {index} cannot be read ({_line(error)}); save the model again") from None


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
