"""Whether a run fits, and the smallest change that makes it fit."""

from __future__ import annotations

from collections.abc import Iterator

from aer_lightning.plan.facts import RunFacts
from aer_lightning.plan.memory import phases

MARGIN = 0.96  # of the device's memory that may be used: fragmentation takes the rest


def peak_gib(run: RunFacts, device_gib: float) -> float:
    """Largest total of all phases."""
    return max(phase.total_gib for phase in phases(run, device_gib).values())


def fits(run: RunFacts, device_gib: float) -> bool:
    """Whether every phase stays within the device, and the engine can hold one sequence."""
    found = phases(run, device_gib)
    enough = not run.vllm or found["generate"].kv_cache_gib * 2**30 >= run.model.kv_bytes * (run.max_prompt + run.max_new)
    return enough and all(phase.total_gib <= MARGIN * device_gib for phase in found.values())


def changes(run: RunFacts) -> Iterator[tuple[str, RunFacts]]:
    """Changes from the smallest on: what costs a little time, then what changes the run, then more devices.

    On a CPU there is nothing to offload to, and more processes share the same memory.
    """
    longest = run.max_prompt + run.max_new
    engine = {"utilisation": 0.3} if run.vllm and run.utilisation > 0.3 else {}
    half, smaller = max(longest, run.tokens // 2), max(longest, run.tokens // 4)
    steps: list[tuple[str, dict[str, object]]] = [
        (f"data.init_args.scoring_tokens_per_micro_batch: {run.tokens}", {"scoring_tokens": run.tokens}),
        (f"data.init_args.tokens_per_micro_batch: {half}", {"tokens": half, "scoring_tokens": 2 * half}),
        (f"data.init_args.tokens_per_micro_batch: {smaller}", {"tokens": smaller, "scoring_tokens": smaller}),
        ("model.init_args.offload: optimizer", {"offload": "optimizer"}),
        ("model.init_args.gradient_checkpointing: true", {"checkpointing": True}),
        ("model.init_args.offload: all", {"offload": "all"}),
    ]
    if run.step_copies and not run.host:
        steps.insert(0, ("model.init_args.optimizer.init_args.fused: true", {"step_copies": False}))
    if run.host:
        steps = [step for step in steps if "offload" not in step[1]]
    for name, change in steps:
        yield name, run.but(**change)
    if run.host:
        mild = run.but(checkpointing=True, tokens=smaller, scoring_tokens=smaller)
        yield f"gradient_checkpointing: true and tokens_per_micro_batch: {smaller}", mild
        if not run.lora:
            yield "the same and lora: {r: 16, base_dtype: bfloat16}", mild.but(lora=16, lora_base_bytes=2, reference=False)
        return
    mild = run.but(checkpointing=True, offload="all", tokens=smaller, scoring_tokens=smaller)
    yield "gradient_checkpointing: true, offload: all and tokens_per_micro_batch: " + str(smaller), mild
    if engine:
        yield "the same and gpu_memory_utilization: 0.3", mild.but(**engine)
    if not run.lora:
        lora = mild.but(lora=16, lora_base_bytes=2, reference=False)
        yield "the same and lora: {r: 16, base_dtype: bfloat16}", lora
    for devices in (2, 4, 8):
        if devices > run.devices:
            yield (
                f"-c configs/strategy/fsdp2.yaml --trainer.devices {devices}, gradient_checkpointing: true and offload: all",
                mild.but(devices=devices, sharded=True),
            )


def smallest_change(run: RunFacts, device_gib: float) -> str | None:
    """What to change so that a run fits: empty if nothing, None if nothing tried was enough."""
    if fits(run, device_gib):
        return ""
    return next((name for name, changed in changes(run) if changed != run and fits(changed, device_gib)), None)
