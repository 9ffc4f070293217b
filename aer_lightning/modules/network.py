"""The policy network: a Hugging Face causal LM that answers with token statistics instead of logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aer_lightning.errors import ConfigError, DataError
from aer_lightning.kernels import linear_token_stats

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_model_folder(folder: str, option: str = "model.init_args.pretrained") -> None:
    """Refuse a local folder that cannot be a model before anything heavy is loaded; hub names pass.

    Raises:
        DataError: config, weights or tokenizer are missing; the message names the folder and what it lacks.
    """
    path = Path(folder)
    if not path.is_dir():
        if path.is_absolute() or folder.startswith((".", "~")):
            raise DataError(f"{option}: no folder {folder}; give a Hugging Face model folder or a hub name")
        return
    if not (path / "config.json").is_file():
        raise DataError(f"{option}: {folder} has no config.json; is it a Hugging Face model folder (save_pretrained)?")
    try:
        json.loads((path / "config.json").read_text())
    except ValueError as error:
        raise DataError(f"{option}: {path / 'config.json'} is not JSON ({error}); save the model again") from None
    if not any(any(path.glob(pattern)) for pattern in ("*.safetensors", "pytorch_model*.bin")):
        raise DataError(f"{option}: {folder} has no weights (*.safetensors); save the model with save_pretrained")
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    if not any((path / name).is_file() for name in names):
        raise DataError(f"{option}: {folder} has no tokenizer (tokenizer.json); save the tokenizer beside the model")


def local_folder(name: str, option: str = "model.init_args.pretrained") -> Path:
    """The local folder of a model: itself, or the hub's snapshot, downloaded if it has to be.

    Raises:
        DataError: the name is no folder and the hub does not give it.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.gguf", "*.onnx", "*.msgpack", "*.h5", "original/*"]))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{option}: {name} is neither a folder here nor a model the hub gives ({first})") from None


def load_causal_lm(name: str, *, dtype: str, trust_remote_code: bool, attn_implementation: str | None, random_weights: bool = False) -> Any:
    """Load a causal LM with dropout off, because the ratio of two evaluations of one policy has to be 1 when nothing changed.

    Args:
        name: local folder or hub name.
        dtype: one of ``DTYPES``.
        trust_remote_code: run code that comes with the model.
        attn_implementation: passed on to transformers; None for its default.
        random_weights: build from the configuration alone.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    for option, value in vars(config).items():
        if "dropout" in option and isinstance(value, float):
            setattr(config, option, 0.0)
    kwargs: dict[str, Any] = {"trust_remote_code": trust_remote_code, "dtype": DTYPES[dtype]}
    if attn_implementation is not None:
        kwargs["attn_implementation"] = attn_implementation
    if random_weights:
        return AutoModelForCausalLM.from_config(config, **kwargs)
    return AutoModelForCausalLM.from_pretrained(name, config=config, **kwargs)


class PolicyNetwork(nn.Module):
    """Scores completions: ``[B, L]`` ids in, ``[B, L]`` log-probabilities and entropies out, logits never.

    The head's matrix product is fused with the statistics and done for response tokens only. It happens inside this module's
    ``forward`` so that sharding wrappers around the module have gathered the head when it is read.

    Args:
        model: a Hugging Face causal LM.
        backend: kernel backend, see ``aer_lightning.kernels``.
        workspace_mb: bound on the kernels' extra memory, MiB.

    Raises:
        ConfigError: the model changes its logits after the head in a way that the kernels do not know.
    """

    def __init__(self, model: Any, backend: Literal["auto", "reference", "chunked", "triton"] = "auto", workspace_mb: int = 256) -> None:
        super().__init__()
        self.model = model
        self.backend = backend
        self.workspace_mb = workspace_mb
        config = model.config.get_text_config()
        if getattr(config, "final_logit_softcapping", None):
            raise ConfigError(
                f"model.init_args.pretrained: {config.model_type} caps its logits (final_logit_softcapping), which the fused kernels "
                "do not support; choose a model without it"
            )
        # A constant factor on the logits (Cohere multiplies, Granite divides) is a temperature.
        self.logit_scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Token statistics of the response tokens under softmax(z / temperature) over the whole vocabulary.

        Args:
            input_ids: [B, L] right-padded ids.
            attention_mask: [B, L] bool.
            response_mask: [B, L] bool, the tokens to score; never the first of a sequence.
            temperature: > 0.

        Returns:
            ``logprob`` and ``entropy``, each [B, L] fp32 in nat, 0 where ``response_mask`` is False.
        """
        hidden = self.model.base_model(input_ids=input_ids, attention_mask=attention_mask.long(), use_cache=False).last_hidden_state
        # The state at t - 1 predicts the token at t.
        chosen = hidden[:, :-1][response_mask[:, 1:]]  # [N, D]
        targets = input_ids[response_mask]  # [N]
        head = self.model.get_output_embeddings()
        logprob, entropy = linear_token_stats(
            chosen,
            head.weight,
            targets,
            bias=head.bias,
            temperature=temperature / self.logit_scale,
            backend=self.backend,
            workspace_mb=self.workspace_mb,
        )
        empty = torch.zeros(input_ids.shape, dtype=torch.float32, device=input_ids.device)
        return empty.masked_scatter(response_mask, logprob), empty.masked_scatter(response_mask, entropy)
