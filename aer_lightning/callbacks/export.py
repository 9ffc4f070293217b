"""The trained policy as a Hugging Face model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from aer_lightning.callbacks.run_files import run_folder
from aer_lightning.errors import ConfigError
from aer_lightning.modules.adapters import save_peft
from aer_lightning.modules.sharding import full_adapters

DType = Literal["float32", "bfloat16", "float16"]
Adapters = Literal["merged", "peft", "both"]


class HFExport(pl.Callback):
    """Writes ``<run folder>/model`` when training ends: weights (safetensors), config, generation config and tokenizer.

    ``AutoModelForCausalLM.from_pretrained`` loads it to the policy that was trained. Collective under sharding: every rank gathers,
    rank zero writes.

    Args:
        enabled: whether to write.
        dtype: of the weights on disk; that of the trained weights if left out.
        adapters: what is written of a policy that trains adapters: the ``merged`` model, the adapters as a ``peft`` folder
            ``<run folder>/adapters``, or ``both``.

    Raises:
        ConfigError: an unknown dtype.
    """

    def __init__(self, enabled: bool = True, dtype: DType | None = None, adapters: Adapters = "merged") -> None:
        if dtype is not None and dtype not in get_args(DType):
            raise ConfigError(f"export.dtype: must be one of {', '.join(get_args(DType))}, or null for that of the policy, got {dtype!r}")
        if adapters not in get_args(Adapters):
            raise ConfigError(f"export.adapters: must be one of {', '.join(get_args(Adapters))}, got {adapters!r}")
        self.enabled, self.dtype, self.adapters = enabled, dtype, adapters

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Export while the strategy still holds the weights."""
        if not self.enabled:
            return
        network: Any = pl_module.policy
        if network.lora is not None and self.adapters != "merged":
            adapters = full_adapters(network)
            if trainer.is_global_zero:
                save_peft(network, pl_module.pretrained, run_folder(trainer) / "adapters", adapters)  # type: ignore[arg-type]
                rank_zero_info(f"the adapters are in {run_folder(trainer) / 'adapters'}")
            if self.adapters == "peft":
                trainer.strategy.barrier("export")
                return
        cast = None if self.dtype is None else getattr(torch, self.dtype)
        state = {}
        for name, tensor in pl_module.full_weights():  # type: ignore[operator]
            # Every rank has to take part in gathering to the end; only rank zero keeps what it gets.
            if trainer.is_global_zero:
                state[name] = tensor.to(device="cpu", dtype=cast if tensor.is_floating_point() else None)
        if trainer.is_global_zero:
            tokenizer = getattr(trainer.datamodule, "tokenizer", None)  # type: ignore[attr-defined]
            folder = run_folder(trainer) / "model"
            save_model(pl_module.policy.model, state, tokenizer, folder)  # type: ignore[union-attr]
            rank_zero_info(f"the policy is in {folder}")
        trainer.strategy.barrier("export")


def save_model(model: Any, state: dict[str, Tensor], tokenizer: Any, folder: Path) -> None:
    """Write a Hugging Face model folder.

    Args:
        model: the live model; gives architecture and configs, and which weights are tied. Its parameters are not read.
        state: full tensors on the CPU by the model's own names.
        tokenizer: saved beside the weights; None for none.
        folder: made if it is not there.
    """
    from transformers.utils import logging

    _share_tied(model, state)
    config_dtype, generation = model.config.dtype, model.generation_config
    mended = _mended_generation_config(generation)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.generation_config = mended
        model.save_pretrained(folder, state_dict=dict(state))
        # The model's config names the dtype of the live weights; the folder's has to name that of the written ones.
        written = next(t.dtype for t in state.values() if t.is_floating_point())
        model.config.dtype = written
        model.config.save_pretrained(folder)
    finally:
        if bars:
            logging.enable_progress_bar()
        model.config.dtype, model.generation_config = config_dtype, generation
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _share_tied(model: Any, state: dict[str, Tensor]) -> None:
    """Make tied weights one tensor again, so that they are saved once; gathering and casting make copies."""
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in state:
            state[name] = state[first.setdefault(id(parameter), name)]


def _mended_generation_config(config: Any) -> Any:
    """A copy that can be saved: transformers refuses sampling options beside ``do_sample=False``, which published models have."""
    if config is None:
        return None
    from copy import deepcopy

    try:
        config.validate(strict=True)
    except ValueError:
        config = deepcopy(config)
        config.do_sample = True
    return config
