"""Low-rank adapters (LoRA, arXiv 2106.09685) on a frozen base, with the peft library.

The base is loaded once: with its adapters it is the policy, without them the reference. Checkpoints hold adapters alone. Whoever reads
the policy's weights (the engine, an export) gets them merged, W + (alpha / r) B A, under the base model's names.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aer_lightning.errors import ConfigError

NAME = "default"  # of the one adapter, as peft calls it where nobody chooses
OPTION = "model.init_args.lora"
ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters instead of the weights themselves.

    Args:
        r: rank, at least 1.
        alpha: the adapters' product is multiplied by alpha / r (by alpha / sqrt(r) with ``rslora``).
        dropout: probability with which an adapter's input is dropped in the training forward. The ratio to the scored policy is then not
            1 on the first step either, so that every rollout gets a scoring pass of its own, without dropout.
        targets: ``all-linear`` for every linear layer but the head, or names of layers as the model has them (``q_proj``,
            ``layers.3.mlp.up_proj``).
        rslora: rank-stabilised scaling (arXiv 2312.03732).
        base_dtype: dtype of the frozen base; that of the model if left out. Adapters are always float32.
        quantize: ``nf4`` holds the base in 4 bits (QLoRA, arXiv 2305.14314); needs the package bitsandbytes.

    Raises:
        ConfigError: a value is out of range, or a package is missing.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str | list[str] = ALL_LINEAR
    rslora: bool = False
    base_dtype: Literal["float32", "bfloat16"] | None = None
    quantize: Literal["nf4"] | None = None

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ConfigError(f"{OPTION}.r: a rank of {self.r} adapts nothing; give at least 1")
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise ConfigError(f"{OPTION}.alpha: must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"{OPTION}.dropout: must be in [0, 1), got {self.dropout}")
        if not self.targets or (isinstance(self.targets, str) and self.targets != ALL_LINEAR):
            raise ConfigError(
                f"{OPTION}.targets: give {ALL_LINEAR} or a list of layer names such as [q_proj, v_proj], got {self.targets!r}"
            )
        if importlib.util.find_spec("peft") is None:
            raise ConfigError(f"{OPTION}: needs the package peft, which is not installed; pip install 'aer-lightning[lora]'")
        if self.quantize is not None and importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError(
                f"{OPTION}.quantize: {self.quantize} needs the package bitsandbytes, which is not installed; use null, or install it"
            )

    @property
    def scaling(self) -> float:
        """Factor on B A.

        >>> Lora(r=16, alpha=32).scaling
        2.0
        """
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)


def linear_layers(model: Any) -> list[str]:
    """Names of the linear layers of a Hugging Face model that adapters may go to: all but the head."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not head]


def matching_targets(model: Any, targets: str | list[str]) -> list[str]:
    """The names that peft looks for, sorted; each has to end the name of a linear layer.

    Raises:
        ConfigError: one matches none; the message lists those there are.
    """
    layers = linear_layers(model)
    kinds = sorted({name.rsplit(".", 1)[-1] for name in layers})
    if isinstance(targets, str):
        return kinds
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise ConfigError(f"{OPTION}.targets: {target} matches no linear layer that can be adapted; there are {', '.join(kinds)}")
    return sorted(set(targets))


def add_adapters(network: Any, lora: Lora, seed: int) -> None:
    """Freeze the base of a ``PolicyNetwork`` and put adapters into it, in place; the policy they make is the base's own.

    A's are uniform as peft draws them, the same on every rank, B's are 0. From then on the network's state dict holds adapters alone.

    Args:
        network: of a plain or an empty (meta) model; the adapters of an empty one are empty too.
        lora: what to add.
        seed: of A.

    Raises:
        ConfigError: a target matches nothing.
    """
    from peft import LoraConfig, inject_adapter_in_model

    model, targets = network.model, matching_targets(network.model, lora.targets)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft only divides it
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.rslora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, model, NAME)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name))
        if is_adapter(name):
            parameter.data = parameter.data.float()
            if not parameter.is_meta:
                parameter.data.copy_(initial_value(name, parameter.shape, seed))
    frozen = {name for name in network.state_dict() if not is_adapter(name)}

    def keep_adapters(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for name in frozen:
            state.pop(prefix + name, None)

    def miss_no_base(module: nn.Module, keys: Any) -> None:
        keys.missing_keys[:] = [name for name in keys.missing_keys if name.removeprefix("policy.") not in frozen]

    network.register_state_dict_post_hook(keep_adapters)
    network.register_load_state_dict_post_hook(miss_no_base)
    network.lora, network.lora_targets = lora, targets


def is_adapter(name: str) -> bool:
    """Whether a weight of this name is an adapter's."""
    return ".lora_A." in name or ".lora_B." in name


def initial_value(name: str, shape: torch.Size, seed: int) -> Tensor:
    """A's start, uniform in +-1 / sqrt(inputs), or B's, 0; the same wherever it is drawn. A CPU tensor of ``shape``."""
    if ".lora_B." in name:
        return torch.zeros(shape)
    drawn = hashlib.sha256(f"{seed} {name}".encode()).digest()[:7]
    generator = torch.Generator().manual_seed(int.from_bytes(drawn, "big"))
    bound = 1 / math.sqrt(shape[1])
    return torch.rand(shape, generator=generator) * 2 * bound - bound


def base_name(name: str) -> str:
    """The base model's own name of one of its weights.

    >>> base_name("model.layers.0.mlp.up_proj.base_layer.weight")
    'model.layers.0.mlp.up_proj.weight'
    """
    return name.replace(".base_layer.", ".")


def adapted(model: Any) -> dict[str, Any]:
    """Peft's layers by the name of the weight that each changes; empty for a model without adapters."""
    return {f"{name}.base_layer.weight": m for name, m in model.named_modules() if hasattr(m, "base_layer") and hasattr(m, "lora_A")}


def factors(layer: Any) -> tuple[Tensor, Tensor]:
    """A [r, in] and B [out, r] of one of peft's layers, shards where they are sharded."""
    return layer.lora_A[NAME].weight.detach(), layer.lora_B[NAME].weight.detach()


def base_state(model: Any) -> dict[str, Tensor]:
    """Weights and persistent buffers but for adapters, by the model's names; quantized ones as they are held."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    quantized = getattr(model, "is_quantized", False)
    state = {}
    for name, tensor in model.state_dict().items():
        if is_adapter(name) or (quantized and "_layer.weight." in name):  # bitsandbytes' own entries: absmax, quant_map
            continue
        state[name] = parameters[name] if quantized and name in parameters else tensor
    return state


def dequantized(tensor: Tensor) -> Tensor:
    """A weight in floating point, whatever it is held in."""
    if getattr(tensor, "quant_state", None) is None:
        return tensor.detach()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(tensor.data, tensor.quant_state)  # type: ignore[attr-defined]


def merged(weight: Tensor, a: Tensor, b: Tensor, scaling: float, transposed: bool = False) -> Tensor:
    """W + scaling B A in fp32, whatever W is held in.

    Args:
        weight: [out, in]; [in, out] if ``transposed``.
        a: [r, in].
        b: [out, r].
        scaling: alpha / r.
        transposed: as GPT-2 holds its weights.
    """
    product = (b.float() @ a.float()) * scaling
    return weight.float() + (product.T if transposed else product)


@contextmanager
def without_adapters(network: Any) -> Iterator[None]:
    """The base alone: the reference of a policy that is its adapters."""
    # enable_adapters would also touch requires_grad, which FSDP2 has taken note of.
    layers = list(adapted(network.model).values())
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


# -- checkpoints and export ---------------------------------------------------------------------------------------------------------------


def description(lora: Lora | None) -> dict[str, Any] | None:
    """What a checkpoint says of its adapters, plain values; None without any."""
    if lora is None:
        return None
    targets = lora.targets if isinstance(lora.targets, str) else sorted(lora.targets)
    return {"r": lora.r, "alpha": lora.alpha, "rslora": lora.rslora, "targets": targets}


def check_same(saved: Mapping[str, Any] | None, lora: Lora | None) -> None:
    """Refuse a checkpoint of other adapters, or of none.

    Raises:
        ConfigError: names the option and both values.
    """
    mine = description(lora)
    if (saved is None) != (mine is None):
        if mine is None:
            raise ConfigError(f"{OPTION}: the checkpoint holds adapters (rank {saved['r']}), this run has none; set {OPTION} as it was")  # type: ignore[index]
        raise ConfigError(f"{OPTION}: the checkpoint holds whole weights, this run trains adapters; export it and give it as pretrained")
    for name, value in (saved or {}).items():
        if mine is not None and mine.get(name) != value:
            raise ConfigError(f"{OPTION}.{name}: the checkpoint's adapters have {value}, this run's {mine.get(name)}; set it as it was")


def save_peft(network: Any, base: str, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write the adapters as a folder that ``peft.PeftModel.from_pretrained`` and vLLM's LoRA loader read.

    Args:
        network: a ``PolicyNetwork`` with adapters.
        base: folder or hub name of the base model.
        folder: made if it is not there.
        state: full adapter tensors on the CPU, by the network's names.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    lora: Lora = network.lora
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=network.lora_targets,
        use_rslora=lora.rslora,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file({peft_name(name): tensor.contiguous() for name, tensor in state.items()}, folder / "adapter_model.safetensors")


def peft_name(name: str) -> str:
    """A network's adapter weight as peft's files call it.

    >>> peft_name("model.model.layers.0.mlp.up_proj.lora_A.default.weight")
    'base_model.model.model.layers.0.mlp.up_proj.lora_A.weight'
    """
    return "base_model.model." + name.removeprefix("model.").replace(f".{NAME}.", ".")
