"""Memory of one process by phase, and of its node's host."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch

from aer_lightning.checkpoints.saver import FILE_BYTES
from aer_lightning.data.engines.vllm_environment import worker_cache_gib
from aer_lightning.errors import ConfigError
from aer_lightning.kernels import planning
from aer_lightning.plan.activations import activation_bytes, shortened
from aer_lightning.plan.facts import RunFacts

GIB = 2**30
PROCESS = 0.5 * GIB  # a trainer on a CPU before it has a model: interpreter and libraries; measured by benchmarks/plan_check.py
VLLM_PROCESS = 1.3 * GIB  # a worker of vLLM on a CPU likewise; an allowance, not measured here
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
        activations_gib: traced; where the optimizer's step is the worst moment, its copies; while the engine generates, its logits.
        head_workspace_gib: the kernels' budget.
        engine_gib: the engine's weights and its own workspace.
        kv_cache_gib: the engine's cache.
        buffers_gib: context, communication, weights in transit; on a CPU the process itself.
        saved_gib: on a CPU, the copy of weights and states that is being written.
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
    saved_gib: float = 0.0

    @property
    def total_gib(self) -> float:
        """All of it."""
        return sum(getattr(self, f.name) for f in fields(self))

    def row(self) -> dict[str, float]:
        """Names and figures, the total last."""
        return {f.name: round(getattr(self, f.name), 3) for f in fields(self)} | {"total_gib": round(self.total_gib, 3)}


def phases(run: RunFacts, device_gib: float) -> dict[str, Phase]:
    """Memory of one process in each phase of a rollout, at the phase's worst moment.

    On the host itself (``run.host``) the engine's weights stay, the copy that a save makes counts too, and an engine in a process of its
    own is added.

    Args:
        run: the run.
        device_gib: what the device has; vLLM takes its share of it for the cache.
    """
    model, shards = run.model, run.shards
    weights = model.parameters * (run.lora_base_bytes if run.lora else 4) / shards + (run.trained * 4 / shards if run.lora else 0)
    weights += model.parameters * 4 / shards if run.reference else 0.0
    gradients = run.trained * 4 / (1 if run.last_pack else shards)
    optimizer = run.trained * run.optimizer_bytes / shards
    parked = run.offload != "none" and not run.host
    kept = {"weights": 0.0 if run.offload == "all" and parked else weights, "optimizer": 0.0 if parked else optimizer}
    engine = engine_bytes(run)
    stays = engine if run.host or not (run.vllm or run.sleeps) else 0.0
    cache, decoding = _generation(run, device_gib * GIB, engine)
    base = {"weights": weights, "optimizer": optimizer, "engine": stays, "buffers": PROCESS if run.host else CONTEXT}
    if run.host and run.vllm:
        base["kv_cache"] = cache
    scored = min(run.scoring_tokens, _share(run) * run.steps)
    score = {}
    if run.scored or run.reference:
        free = device_gib * GIB - sum(base.values())
        score = {"activations": _activations(run, scored, gradient=False)[0], "head_workspace": head_bytes(run, scored, free, False)}
    saved = checkpoint_bytes(run) / shards
    copies = {"saved": saved + 2 * min(saved, max(FILE_BYTES, model.largest * 4 / shards))} if run.host else {}
    found = {
        "generate": base | kept | {"engine": engine, "kv_cache": cache, "activations": decoding},
        "sync": base | kept | {"weights": weights, "engine": engine} | _sync(run),
        "score": base | score | {"gathered": _gathered(run) if score else 0.0},
        "train": max(_train_moments(run, device_gib * GIB, base, gradients), key=lambda moment: sum(moment.values())),
        "checkpoint": base | {"gradients": gradients} | copies,
    }
    return {name: Phase(**{f"{part}_gib": value / GIB for part, value in parts.items()}) for name, parts in found.items()}


def _train_moments(run: RunFacts, device: float, base: dict[str, float], gradients: float) -> list[dict[str, float]]:
    """What is held when the head's backward pass begins, when that of the first layer ends, and in the optimizer's step, bytes."""
    model, compute = run.model, 2 if run.mixed else 4
    tokens = min(run.tokens, _share(run))
    whole, one = _activations(run, tokens, gradient=True)
    head = model.embedding / (1 if model.config.tie_word_embeddings else 2) * (not run.lora)
    ends = model.embedding * (not run.lora)
    cast = head * 2 * (run.mixed and not run.sharded)  # of an fp32 head, for the packs of a step
    first = tokens >= _share(run) and not run.last_pack  # nothing is left of a pack before it
    begin = base | {
        "gradients": (0.0 if run.sharded else head * 4) if first else gradients,
        "activations": whole + cast,
        "gathered": _gathered(run) + (head * compute if run.sharded else 0),
    }
    begin["head_workspace"] = head_bytes(run, tokens, device - sum(begin.values()), True)
    # FSDP2 reduces the ends' gradients last: as they are, in fp32 side by side for the reduction, and on gloo once more on their way.
    reducing = ends * (compute + compute + 4 + (4 if run.host else 0)) if run.sharded else 0.0
    added = head * 4 * (not first and not run.sharded)  # the embedding's gradient, before it is added to what the packs before left
    end = base | {"gradients": gradients, "activations": one + added, "gathered": reducing}
    copies = run.trained * 4 / run.shards if not run.host else min(model.largest, run.trained) * 4 / run.shards
    step = base | {"gradients": gradients, "activations": copies if run.step_copies else 0.0}
    return [begin, end, step]


def _activations(run: RunFacts, tokens: int, *, gradient: bool) -> tuple[int, int]:
    """Bytes that a pack holds beside weights: with all layers, and with one."""
    config, longest = run.model.config, run.max_prompt + run.max_new
    predicted = max(1, round(tokens * run.max_new / longest))
    options: dict[str, Any] = {"mixed": run.mixed, "checkpointing": run.checkpointing and gradient, "gradient": gradient}
    parts = [activation_bytes(c, tokens, min(longest, tokens), predicted=predicted, **options) for c in (config, shortened(config, 1))]
    return parts[0], parts[1]


def _gathered(run: RunFacts) -> float:
    """Whole weights: FSDP2 gathers two layers (one computes, one is on its way), embedding and head; else a layer's cast."""
    if run.sharded:
        return (2 * run.model.largest_layer + run.model.embedding) * (2 if run.mixed else 4)
    return run.model.largest_layer * 2 * run.mixed


def head_bytes(run: RunFacts, tokens: int, free: float, gradient: bool) -> float:
    """What the head's kernels hold for a pack: their own plan within the budget of ``memory_mb``, or of what is free.

    Args:
        run: the run.
        tokens: of the pack.
        free: bytes that nothing else holds.
        gradient: whether there is a backward pass.
    """
    config = run.model.config
    predicted = max(1, round(tokens * run.max_new / (run.max_prompt + run.max_new)))
    device = planning.CPU if run.host else planning.DEVICES["H100"]
    budget = run.head_mb
    if budget is None and run.host:
        budget = planning.automatic_budget(torch.device("cpu"), device) / planning.MIB
    elif budget is None:
        budget = max(64.0, 2.0 ** math.floor(math.log2(max(1.0, min(free / 2, device.memory * GIB / 8)) / planning.MIB)))
    dtype = torch.bfloat16 if run.mixed else torch.float32
    options: dict[str, Any] = {"weight_dtype": torch.float32, "gradient": gradient}
    try:
        return planning.plan(predicted, config.hidden_size, config.vocab_size, dtype, budget, device, **options).bytes
    except ConfigError:  # which the run itself will say
        return budget * planning.MIB


def engine_bytes(run: RunFacts) -> float:
    """The engine's weights, and what it holds beside them and the cache."""
    model, itemsize = run.model, _engine_itemsize(run)
    if not run.vllm:
        return float(model.parameters * itemsize)
    head = model.embedding if model.config.tie_word_embeddings else 0  # which vLLM is served untied
    return (model.parameters + head) * itemsize + (VLLM_PROCESS if run.host else 1.0 * GIB)


def _engine_itemsize(run: RunFacts) -> int:
    return {"float32": 4, None: 4 if run.host else 2}.get(run.engine_dtype, 2)


def _generation(run: RunFacts, device: float, engine: float) -> tuple[float, float]:
    """The engine's cache, and what a step of decoding or the reading of prompts holds beside it, bytes."""
    model, size = run.model, _engine_itemsize(run)
    per_token = model.kv_bytes * size / 2
    if run.vllm and run.kv_cache_gib is not None:
        return run.kv_cache_gib * GIB, 0.0
    if run.vllm and run.host:
        return worker_cache_gib(model.config, run.engine_rows, run.max_prompt + run.max_new, size) * GIB, 0.0
    if run.vllm:
        return max(0.0, device * run.utilisation - engine), 0.0
    rows, prompts = min(run.engine_rows, _rows(run)), -(-run.prompts // run.world_size)
    columns = run.max_prompt + 32
    while columns < run.max_prompt + run.max_new:
        columns += max(32, columns // 2)  # as the engine's cache grows
    logits = rows * model.config.vocab_size * (5 * 4 + size)  # as they come, logarithms, and in fp64 their exponentials and sums
    read = min(run.prefill, prompts * run.max_prompt)
    reading = activation_bytes(model.config, read, min(read, run.max_prompt), mixed=False, checkpointing=False, gradient=False, predicted=1)
    return rows * columns * per_token, max(logits, reading * size / 4 + read * per_token)


def _sync(run: RunFacts) -> dict[str, float]:
    """Weights on their way: a bucket of them to another process, and each whole where there are shards."""
    whole = run.model.largest * 4 * (2 if run.host else 1) if run.sharded else 0.0
    return {"gathered": whole, "buffers": PROCESS if run.host else CONTEXT + BUCKET}


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
    if run.host:
        peak = max(phase.total_gib for phase in phases(run, math.inf).values()) * run.devices
        return {"start": round(run.devices * (2 * copy / run.shards + PROCESS / GIB), 2), "peak": round(peak, 2)}
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
