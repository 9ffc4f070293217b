"""Memory of one process by phase, and of its node's host."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from aer_lightning.plan.activations import activation_bytes
from aer_lightning.plan.facts import RunFacts

GIB = 2**30
CONTEXT = 0.8 * GIB  # a CUDA context, its libraries and NCCL's buffers; an allowance, not measured here
BUCKET = 0.5 * GIB  # of weights on their way to the engine


@dataclass(frozen=True)
class Phase:
    """What one process holds on its device in a phase, GiB each.

    Attributes:
        weights_gib: of the trainer, the reference's among them.
        gathered_gib: whole weights that sharding has gathered for the moment.
        gradients_gib: of trained weights.
        optimizer_gib: states.
        activations_gib: traced.
        head_workspace_gib: the kernels' budget.
        engine_gib: the engine's weights and its own workspace.
        kv_cache_gib: the engine's cache.
        buffers_gib: context, communication, weights in transit.
    """

    weights_gib: float = 0.0
    gathered_gib: float = 0.0
    gradients_gib: float = 0.0
    optimizer_gib: float = 0.0
    activations_gib: float = 0.0
    head_workspace_gib: float = 0.0
    engine_gib: float = 0.0
    kv_cache_gib: float = 0.0
    buffers_gib: float = 0.0

    @property
    def total_gib(self) -> float:
        """All of it."""
        return sum(getattr(self, f.name) for f in fields(self))

    def row(self) -> dict[str, float]:
        """Names and figures, the total last."""
        return {f.name: round(getattr(self, f.name), 3) for f in fields(self)} | {"total_gib": round(self.total_gib, 3)}


def phases(run: RunFacts, device_gib: float) -> dict[str, Phase]:
    """Memory of one process in each phase of a rollout.

    Args:
        run: the run.
        device_gib: what the device has; vLLM takes its share of it for the cache.
    """
    model, shards = run.model, run.world_size if run.sharded else 1
    compute = 2 if run.mixed else 4
    base_bytes = run.lora_base_bytes if run.lora else 4
    weights = model.parameters * base_bytes / shards + (run.trained * 4 / shards if run.lora else 0)
    reference = model.parameters * 4 / shards if run.reference else 0.0
    gradients = run.trained * 4 / (1 if run.last_pack else shards)
    optimizer = run.trained * run.optimizer_bytes / shards
    # FSDP2 holds two gathered layers (one computes, one is on its way) and embedding with head; mixed products cast a copy of a layer.
    gathered = (2 * model.largest_layer + model.embedding) * compute if run.sharded else model.largest_layer * 2 * run.mixed
    tokens, scored = min(run.tokens, _share(run)), min(run.scoring_tokens, _share(run) * run.steps)
    longest = run.max_prompt + run.max_new
    options: dict[str, Any] = {"mixed": run.mixed}
    train_act = activation_bytes(model.config, tokens, min(longest, tokens), checkpointing=run.checkpointing, gradient=True, **options)
    score_act = activation_bytes(model.config, scored, min(longest, scored), checkpointing=False, gradient=False, **options)
    head = run.head_mb * 2**20
    engine = model.parameters * 2 + 1.0 * GIB if run.vllm else model.parameters * 4
    kept_weights = 0.0 if run.offload == "all" else weights + reference
    kept_states = optimizer if run.offload == "none" else 0.0
    cache = max(0.0, device_gib * GIB * run.utilisation - engine) if run.vllm else _rows(run) * longest * model.kv_bytes * 2
    make = lambda **parts: Phase(**{name: value / GIB for name, value in parts.items()})  # noqa: E731
    common = {"buffers_gib": CONTEXT}
    return {
        "generate": make(weights_gib=kept_weights, optimizer_gib=kept_states, engine_gib=engine, kv_cache_gib=cache, **common),
        "sync": make(
            weights_gib=weights + reference,
            gathered_gib=model.embedding / 2 * 4 if run.sharded else 0.0,
            optimizer_gib=kept_states,
            engine_gib=engine,
            buffers_gib=CONTEXT + BUCKET,
        ),
        "score": make(
            weights_gib=weights + reference,
            gathered_gib=gathered,
            optimizer_gib=optimizer,
            activations_gib=score_act if run.scored or run.reference else 0.0,
            head_workspace_gib=head if run.scored or run.reference else 0.0,
            **common,
        ),
        "train": make(
            weights_gib=weights + reference,
            gathered_gib=gathered,
            gradients_gib=gradients,
            optimizer_gib=optimizer,
            activations_gib=train_act,
            head_workspace_gib=head,
            **common,
        ),
        "checkpoint": make(
            weights_gib=weights + reference, optimizer_gib=optimizer, gathered_gib=model.embedding * 2 if run.sharded else 0.0, **common
        ),
    }


def _share(run: RunFacts) -> int:
    """Most tokens of one rank's share of an optimizer step."""
    per_rank = -(-run.sequences // (run.steps * run.world_size))
    return per_rank * (run.max_prompt + run.max_new)


def _rows(run: RunFacts) -> int:
    return min(256, -(-run.sequences // run.world_size))


def host_gib(run: RunFacts) -> dict[str, float]:
    """Host memory of one node, GiB: while the model is read, and at the peak."""
    model = run.model
    copy = model.parameters * 2 / GIB
    start = 1.2 * copy if run.sharded else run.devices * model.parameters * 4 / GIB
    per_process = run.trained * run.optimizer_bytes / (run.world_size if run.sharded else 1) / GIB
    parked = 0.0 if run.offload == "none" else run.devices * per_process
    if run.offload == "all":
        parked += run.devices * model.parameters * 4 / (run.world_size if run.sharded else 1) / GIB
    saved = checkpoint_bytes(run) / GIB / max(run.nodes if run.sharded else 1, 1)
    processes = run.devices * (1.5 + (2.5 if run.vllm else 0.0))
    return {"start": round(start + processes, 2), "peak": round(max(start, parked + saved) + processes, 2)}


def checkpoint_bytes(run: RunFacts) -> int:
    """Bytes of a checkpoint: what is trained, in fp32, and its optimizer states."""
    return run.trained * (4 + run.optimizer_bytes)


def sync_bytes(run: RunFacts) -> int:
    """Bytes that one weight sync hands to one engine, in 16 bit."""
    return run.model.parameters * 2


def decoding_sequences(run: RunFacts, cache_gib: float) -> int:
    """Sequences of full length that one engine's cache holds at once."""
    return int(cache_gib * GIB // max(1, run.model.kv_bytes * (run.max_prompt + run.max_new)))
