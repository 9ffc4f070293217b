"""Fixtures for tests that train: a tiny random model that speaks Countdown, and runs of a few rollouts."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def build_model(kind: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Save a random causal LM with the shipped character tokenizer: about 30,000 parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    from aer_lightning.tiny_model import build_tokenizer

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    values = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "initializer_range": 0.2,  # peaked enough for entropies of different rows to differ
    } | changes
    config, model = (Qwen3Config, Qwen3ForCausalLM) if kind == "qwen3" else (LlamaConfig, LlamaForCausalLM)
    if kind == "qwen3":
        values["head_dim"] = 8
    model(config(**values)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Qwen3."""
    return build_model("qwen3", tmp_path_factory.mktemp("models") / "qwen3")


@pytest.fixture(scope="session")
def random_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama with tied embeddings."""
    return build_model("llama", tmp_path_factory.mktemp("models") / "llama", tie_word_embeddings=True)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Runs:
    """Builds module, data and trainer for a few small rollouts with the transformers engine."""

    def __init__(self, model: Path, tmp_path: Path) -> None:
        self.model, self.tmp_path = model, tmp_path

    def data(self, **kwargs: Any) -> Any:
        """A datamodule of 4 prompts x 4 responses."""
        from aer_lightning.data.datamodule import RolloutDataModule
        from aer_lightning.data.engines import TransformersEngine
        from aer_lightning.data.prompts import CountdownPrompts

        values = {
            "prompts": CountdownPrompts(split="train", numbers=(2, 3)),
            "engine": TransformersEngine(),
            "prompts_per_rollout": 4,
            "responses_per_prompt": 4,
            "tokens_per_micro_batch": 128,
            "rollouts_per_epoch": 2,
            "max_prompt_tokens": 24,
            "max_new_tokens": 8,
            "eval_samples": 2,
            "seed": 3,
        }
        return RolloutDataModule(**(values | kwargs))

    def module(self, **kwargs: Any) -> Any:
        """A policy module on the random model, with a learning rate that moves it visibly."""
        import torch

        from aer_lightning.modules.policy import PolicyModule

        def adamw(params: Any) -> Any:
            return torch.optim.AdamW(params, lr=1e-3, weight_decay=0.0)

        return PolicyModule(**({"pretrained": str(self.model), "optimizer": adamw} | kwargs))

    def trainer(self, callbacks: list[Any] | None = None, **kwargs: Any) -> Any:
        """A CPU trainer that logs to memory and writes nothing unless asked."""
        import lightning.pytorch as pl
        import torch
        from lightning.pytorch.callbacks import Checkpoint

        from aer_lightning.callbacks.random_state import RandomState

        torch.set_num_threads(1)
        pl.seed_everything(3, verbose=False)
        stack = [*(callbacks or []), RandomState()]
        values = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "default_root_dir": str(self.tmp_path),
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": any(isinstance(c, Checkpoint) for c in stack),
            "use_distributed_sampler": False,
        }
        return pl.Trainer(callbacks=stack, **(values | kwargs))

    def fit(self, callbacks: list[Any] | None = None, data: Any = None, module: Any = None, ckpt_path: Any = None, **kwargs: Any) -> Any:
        """Fit; returns (trainer, module, data)."""
        data = data if data is not None else self.data()
        module = module if module is not None else self.module()
        trainer = self.trainer(callbacks, **kwargs)
        trainer.fit(module, data, ckpt_path=ckpt_path)
        return trainer, module, data


@pytest.fixture
def runs(random_model: Path, tmp_path: Path) -> Runs:
    """See ``Runs``."""
    return Runs(random_model, tmp_path)


class Recorder:
    """Makes a callback that keeps what it saw of every micro-batch and every rollout's metrics."""

    def __new__(cls) -> Any:
        import lightning.pytorch as pl

        class Record(pl.Callback):
            def __init__(self) -> None:
                self.batches: list[Any] = []
                self.losses: list[float] = []
                self.rollouts: list[dict[str, float]] = []
                self.versions: list[tuple[int, int]] = []

            def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
                if batch.first:
                    self.versions.append((batch.info.weight_version, pl_module.weight_version))

            def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
                self.batches.append(batch)
                self.losses.append(float(outputs["loss"]))
                if batch.last:
                    self.rollouts.append({k: float(v) for k, v in trainer.callback_metrics.items()})

        return Record()


@pytest.fixture
def recorder() -> Any:
    """A fresh recording callback; put it after the entropy stack."""
    return Recorder()
