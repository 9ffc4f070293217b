"""How weights come in: a Hugging Face folder is checked, found, and read as a causal LM."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info

from aer_lightning.errors import ConfigError, DataError
from aer_lightning.modules.adapters import Lora, add_adapters
from aer_lightning.modules.model_files import check_causal_lm, check_finite, check_nothing_missing, check_weight_files
from aer_lightning.modules.network import Backend, PolicyNetwork
from aer_lightning.modules.sharded_start import read_shards, unreadable, weight_files, without_storage
from aer_lightning.modules.sharding import shard_fsdp2

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_model_folder(folder: str, option: str = "model.init_args.pretrained") -> None:
    """Refuse a local folder that cannot be a model before anything heavy is loaded; hub names pass.

    Raises:
        DataError: config, weights or tokenizer are missing or damaged, or it is no causal LM; the message names the folder or the file.
    """
    path = Path(folder)
    if not path.is_dir():
        if path.is_absolute() or folder.startswith((".", "~")):
            raise DataError(f"{option}: no folder {folder}; give a Hugging Face model folder or a hub name")
        return
    if not (path / "config.json").is_file():
        raise DataError(f"{option}: {folder} has no config.json; is it a Hugging Face model folder (save_pretrained)?")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{option}: {path / 'config.json'} is not JSON ({error}); save the model again") from None
    if not isinstance(config, dict):
        raise DataError(f"{option}: {path / 'config.json'} is no JSON object; save the model again")
    if not any(any(path.glob(pattern)) for pattern in ("*.safetensors", "pytorch_model*.bin")):
        raise DataError(f"{option}: {folder} has no weights (*.safetensors); save the model with save_pretrained")
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    if not any((path / name).is_file() for name in names):
        raise DataError(f"{option}: {folder} has no tokenizer (tokenizer.json); save the tokenizer beside the model")
    check_causal_lm(path, config, option)
    check_weight_files(path, option)


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


@dataclass(frozen=True)
class NetworkOptions:
    """How a network is made of a folder; see ``PolicyModule`` for what each means."""

    dtype: str = "float32"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    backend: Backend = "auto"
    memory_mb: float | Literal["auto"] = "auto"


@dataclass(frozen=True)
class Sharding:
    """Over which processes FSDP2 shards a network, on which device its shards lie, and the dtype of gathered parameters."""

    mesh: Any
    device: torch.device
    param_dtype: torch.dtype | None = None


def load_network(
    folder: str,
    options: NetworkOptions,
    lora: Lora | None = None,
    *,
    seed: int = 0,
    sharding: Sharding | None = None,
    prepare: Callable[[PolicyNetwork], None] = lambda network: None,
) -> PolicyNetwork:
    """A network of the model in a folder, sharded where asked for; then each rank reads its shards only, if the files allow it.

    Args:
        folder: of the model.
        options: how it is made.
        lora: fresh adapters to add; None for none.
        seed: of the adapters.
        sharding: None for a whole copy in this process.
        prepare: done to the network before it is sharded.

    Raises:
        ConfigError: a 4-bit base cannot be sharded.
        DataError: weights are in no file, of another shape, or not finite.
    """
    network = _load_network(folder, options, lora, seed, sharding, prepare)
    check_finite(folder, network.model.named_parameters())
    return network


def _load_network(
    folder: str,
    options: NetworkOptions,
    lora: Lora | None,
    seed: int,
    sharding: Sharding | None,
    prepare: Callable[[PolicyNetwork], None],
) -> PolicyNetwork:
    if sharding is None:
        network = _network(_plain_model(folder, options, lora), options, lora, seed)
        prepare(network)
        return network
    if lora is not None and lora.quantize is not None:
        raise ConfigError(f"model.init_args.lora.quantize: {lora.quantize} cannot be sharded; use one process, ddp, or base_dtype bfloat16")
    with without_storage():
        model = load_causal_lm(folder, empty=True, **_model_options(options, lora))
    files = weight_files(Path(folder))
    reason = unreadable(model, files)
    if reason is not None:
        rank_zero_info(f"{folder}: every process loads the whole model before it is sharded, because {reason}")
        model = _plain_model(folder, options, lora)
    network = _network(model, options, lora, seed)
    prepare(network)
    shard_fsdp2(network if reason is None else network.to(sharding.device), sharding.mesh, param_dtype=sharding.param_dtype)
    if reason is None:
        read_shards(network, files, sharding.device, seed)
    return network


def _model_options(options: NetworkOptions, lora: Lora | None) -> dict[str, Any]:
    return {
        "dtype": (lora.base_dtype if lora is not None else None) or options.dtype,
        "trust_remote_code": options.trust_remote_code,
        "attn_implementation": options.attn_implementation,
    }


def _plain_model(folder: str, options: NetworkOptions, lora: Lora | None) -> Any:
    return load_causal_lm(folder, quantize=lora.quantize if lora is not None else None, **_model_options(options, lora))


def _network(model: Any, options: NetworkOptions, lora: Lora | None, seed: int) -> PolicyNetwork:
    network = PolicyNetwork(model, backend=options.backend, memory_mb=options.memory_mb, attn_implementation=options.attn_implementation)
    if lora is not None:
        add_adapters(network, lora, seed)
    return network


def load_causal_lm(
    name: str,
    *,
    dtype: str,
    trust_remote_code: bool,
    attn_implementation: str | None,
    quantize: str | None = None,
    empty: bool = False,
) -> Any:
    """Load a causal LM with dropout off, because the ratio of two evaluations of one policy has to be 1 when nothing changed.

    Args:
        name: local folder or hub name.
        dtype: one of ``DTYPES``.
        trust_remote_code: run code that comes with the model.
        attn_implementation: passed on to transformers; None for its default.
        quantize: ``nf4`` for linear layers in 4 bits; None for none.
        empty: leave the weights out; the caller sees to where parameters are made.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    for option, value in vars(config).items():
        if "dropout" in option and isinstance(value, float):
            setattr(config, option, 0.0)
    kwargs: dict[str, Any] = {"trust_remote_code": trust_remote_code, "dtype": DTYPES[dtype]}
    if attn_implementation is not None:
        kwargs["attn_implementation"] = attn_implementation
    if empty:
        model = AutoModelForCausalLM.from_config(config, **kwargs)
        with suppress(OSError):  # a folder need not have one
            model.generation_config = GenerationConfig.from_pretrained(name)
        return model
    if quantize is not None:
        from transformers import BitsAndBytesConfig

        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=quantize, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=DTYPES[dtype]
        )
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would report of missing weights is refused below
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    finally:
        logging.set_verbosity(verbosity)
    model, info = loaded
    check_nothing_missing(name, info)
    return model
