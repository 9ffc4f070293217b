"""What a plan needs to know of a run: its model's shape, from config.json alone, and the options that cost memory or time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aer_lightning.assets import resolve_model
from aer_lightning.data.checks import room_for_prompts
from aer_lightning.errors import ConfigError, DataError

OPTIMIZER_BYTES = {"AdamW8bit": 2, "Adam8bit": 2, "AdamW4bit": 1, "PagedAdamW8bit": 2, "Adam": 8, "AdamW": 8, "SGD": 0, "Adafactor": 0}


@dataclass(frozen=True)
class ModelFacts:
    """The shape of a causal LM.

    Attributes:
        config: its transformers configuration.
        parameters: weights, a tied head once.
        embedding: weights of embedding and head, [V, D] each; once if they are tied.
        largest: elements of the largest weight.
        largest_layer: weights of the largest decoder layer: what FSDP2 gathers at a time.
        adapters: weights that a rank-1 LoRA on every linear layer would add.
        kv_bytes: bytes that one token takes in the KV cache in 16 bit.
    """

    config: Any
    parameters: int
    embedding: int
    largest: int
    largest_layer: int
    adapters: int
    kv_bytes: int

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return int(self.config.num_hidden_layers)

    @property
    def decoder(self) -> int:
        """Weights that every token is multiplied with, embedding and head apart."""
        return self.parameters - self.embedding


def read_config(name: str) -> Any:
    """The transformers configuration of a folder or hub name; nothing else of it is read.

    Raises:
        DataError: there is no config.json.
    """
    from transformers import AutoConfig

    source = str(resolve_model(name))
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise DataError(f"model.init_args.pretrained: {name} has no config.json; a plan needs nothing else of a model")
    try:
        return AutoConfig.from_pretrained(source).get_text_config()
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise DataError(f"model.init_args.pretrained: no config.json of {name} ({first[:160]}); give a folder that has one") from None


def model_facts(config: Any) -> ModelFacts:
    """Count a model without storage."""
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    from aer_lightning.modules.sharding import decoder_layers

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    layers = decoder_layers(model)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    ends = {id(p): p.numel() for module in (head, embedding) for p in module.parameters()}
    adapters = sum(m.in_features + m.out_features for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return ModelFacts(
        config=config,
        parameters=sum(p.numel() for p in model.parameters()),
        embedding=sum(ends.values()),
        largest=max(p.numel() for p in model.parameters()),
        largest_layer=max((sum(p.numel() for p in layer.parameters()) for layer in layers), default=0),
        adapters=adapters,
        kv_bytes=2 * 2 * len(layers) * heads * width,
    )


@dataclass(frozen=True)
class RunFacts:
    """The options of a run that a plan reads; sizes in tokens, over all ranks unless said otherwise.

    Attributes:
        model: shape of the policy.
        prompts, responses, steps: sizes of a rollout.
        tokens: bound on a training pack of one rank.
        scoring_tokens: bound on a pack that is scored.
        max_prompt, max_new: longest prompt and completion.
        scored: whether a pass of its own scores the rollout.
        devices, nodes: processes per node, nodes.
        sharded: whether weights, gradients and optimizer states are sharded over all processes.
        mixed: whether products run in 16 bit on fp32 weights.
        checkpointing: whether decoder layers are recomputed.
        last_pack: whether whole gradients are kept until the last pack.
        offload: none, optimizer or all.
        lora: rank of adapters, 0 for none.
        lora_base_bytes: bytes a weight of a frozen base takes.
        reference: whether a reference of its own is loaded.
        optimizer_bytes: of its states, a trained weight.
        step_copies: whether the optimizer works on all weights at once, with a temporary copy of them (foreach, torch's way on a GPU).
        vllm: whether vLLM generates on the same device.
        engine_dtype: of the engine's weights; None for fp32 on a CPU and bf16 elsewhere.
        engine_rows: sequences that the engine decodes at a time; ``prefill``, prompt tokens that the transformers engine reads at a time.
        sleeps: whether the engine gives up its weights on an accelerator while the trainer works.
        utilisation: vLLM's ``gpu_memory_utilization``; ``kv_cache_gib``, the size of its cache where that is given.
        head_mb: budget of the head's kernels, MiB; None where they choose.
        host: whether the device is the host itself: a CPU.
    """

    model: ModelFacts
    prompts: int = 16
    responses: int = 16
    steps: int = 1
    tokens: int = 16384
    scoring_tokens: int = 65536
    max_prompt: int = 512
    max_new: int = 32
    scored: bool = False
    devices: int = 1
    nodes: int = 1
    sharded: bool = False
    mixed: bool = False
    checkpointing: bool = False
    last_pack: bool = False
    offload: str = "none"
    lora: int = 0
    lora_base_bytes: int = 4
    reference: bool = False
    optimizer_bytes: int = 8
    step_copies: bool = True
    vllm: bool = True
    engine_dtype: str | None = None
    engine_rows: int = 256
    prefill: int = 16384
    sleeps: bool = True
    utilisation: float = 0.4
    kv_cache_gib: float | None = None
    head_mb: float | None = 256
    host: bool = False

    @property
    def world_size(self) -> int:
        """Processes."""
        return self.devices * self.nodes

    @property
    def shards(self) -> int:
        """Into how many parts weights are cut."""
        return self.world_size if self.sharded else 1

    @property
    def sequences(self) -> int:
        """Completions of a rollout."""
        return self.prompts * self.responses

    @property
    def trained(self) -> int:
        """Weights that get a gradient."""
        return self.model.adapters * self.lora if self.lora else self.model.parameters

    def but(self, **changes: Any) -> RunFacts:
        """The same run with some options changed."""
        return replace(self, **changes)


def run_facts(config: Mapping[str, Any]) -> RunFacts:
    """Read a parsed configuration of ``fit`` (plain mappings)."""
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    facts = model_facts(read_config(model["pretrained"]))
    engine = data.get("engine") or {}
    engine_args = engine.get("init_args") or {}
    path = (model.get("optimizer") or {}).get("class_path") or "torch.optim.AdamW"
    optimizer, optimizer_args = path.rsplit(".", 1)[-1], (model.get("optimizer") or {}).get("init_args") or {}
    dtype = engine_args.get("dtype")
    lora = model.get("lora") or {}
    devices = trainer.get("devices")
    strategy = trainer.get("strategy")
    named = strategy if isinstance(strategy, str) else (strategy or {}).get("class_path", "")
    objective = ((model.get("objective") or {}).get("class_path") or "").rsplit(".", 1)[-1]
    max_new = data.get("max_new_tokens", 32)
    steps, tokens = data.get("optimizer_steps_per_rollout", 1), data.get("tokens_per_micro_batch", 16384)
    scoring = data.get("scoring_tokens_per_micro_batch") or 4 * tokens
    kl = float(model.get("kl_weight") or 0.0)
    in_reward = bool(kl) and model.get("kl_in") == "reward"
    return RunFacts(
        model=facts,
        prompts=data.get("prompts_per_rollout", 16),
        responses=data.get("responses_per_prompt", 16),
        steps=steps,
        tokens=tokens,
        scoring_tokens=scoring,
        max_prompt=data.get("max_prompt_tokens") or room_for_prompts(facts.config, max_new, min(tokens, scoring)),
        max_new=max_new,
        scored=data.get("scoring_pass") == "always" or steps > 1 or in_reward or objective in ("ClipCovObjective", "KLCovObjective"),
        devices=_number(devices),
        nodes=int(trainer.get("num_nodes") or 1),
        sharded="fsdp" in str(named).lower() or "ModelParallel" in str(named),
        mixed=str(trainer.get("precision") or "32-true").endswith("mixed"),
        checkpointing=bool(model.get("gradient_checkpointing")),
        last_pack=model.get("reduce_gradients") == "last_pack",
        offload=model.get("offload") or "none",
        lora=int(lora.get("r", 16)) if lora else 0,
        lora_base_bytes=2 if lora and lora.get("base_dtype") == "bfloat16" else 4,
        reference=bool(kl) and not (lora and not model.get("reference")),
        optimizer_bytes=4 if optimizer == "SGD" and optimizer_args.get("momentum") else OPTIMIZER_BYTES.get(optimizer, 8),
        step_copies=path.startswith("torch.optim.") and not optimizer_args.get("fused") and optimizer_args.get("foreach") is not False,
        vllm="VLLMEngine" in (engine.get("class_path") or "VLLMEngine"),
        utilisation=float(engine_args.get("gpu_memory_utilization") or 0.4),
        engine_dtype=None if dtype in (None, "auto") else str(dtype),
        kv_cache_gib=engine_args.get("kv_cache_gib"),
        engine_rows=int(engine_args.get("max_batch_size") or engine_args.get("max_num_seqs") or 256),
        prefill=int(engine_args.get("max_prefill_tokens") or 16384),
        sleeps=bool(data.get("sleep_engine", True)),
        head_mb=None if model.get("memory_mb") in (None, "auto") else float(model["memory_mb"]),
    )


def _number(devices: Any) -> int:
    """Processes per node that ``trainer.devices`` asks for; ``auto`` is one, because a plan looks at no machine.

    Raises:
        ConfigError: it is no such thing.
    """
    if devices in (None, "auto", -1, "-1"):
        return 1
    if isinstance(devices, list):
        return len(devices)
    try:
        return max(1, int(devices))
    except (TypeError, ValueError):
        raise ConfigError(f"trainer.devices: {devices!r} is not a number of devices") from None
