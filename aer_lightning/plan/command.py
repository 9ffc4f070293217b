"""``python -m aer_lightning plan``: the arguments of ``fit``, and what that run would need."""

from __future__ import annotations

import argparse
import json
from typing import Any, Literal

from aer_lightning.plan.facts import RunFacts, run_facts
from aer_lightning.plan.hardware import ACCELERATORS, UTILISATION, Accelerator, accelerator
from aer_lightning.plan.memory import checkpoint_bytes, decoding_sequences, host_gib, phases, sync_bytes
from aer_lightning.plan.timing import MEAN_SHARE, seconds
from aer_lightning.plan.verdict import fits, smallest_change


def plan(run: RunFacts, device: Accelerator) -> dict[str, Any]:
    """Everything the command prints, as plain values."""
    run = run.but(host=device.host)
    memory = device.memory_gib / (run.devices if device.host else 1)
    found = phases(run, memory)
    fit = fits(run, memory)
    change = smallest_change(run, memory)
    return {
        "gpu": device.name,
        "gpu_gib": round(memory, 2),
        "host": device.host,
        "parameters": run.model.parameters,
        "trained_parameters": run.trained,
        "world_size": run.world_size,
        "sizes": {
            "sequences": run.sequences,
            "optimizer_steps_per_rollout": run.steps,
            "sequences_per_step_and_rank": run.sequences / run.steps / run.world_size,
            "longest_sequence": run.max_prompt + run.max_new,
            "tokens_per_micro_batch": run.tokens,
        },
        "phases": {name: phase.row() for name, phase in found.items()},
        "peak_gib": round(max(phase.total_gib for phase in found.values()), 3),
        "host_gib": host_gib(run),
        "decoding_sequences": decoding_sequences(run, found["generate"].kv_cache_gib),
        "checkpoint_gib": round(checkpoint_bytes(run) / 2**30, 3),
        "sync_gib": round(sync_bytes(run) / 2**30, 3),
        "seconds": seconds(run, device),
        "assumed": {**UTILISATION, "mean_share_of_max_new_tokens": MEAN_SHARE},
        "fits": fit,
        "change": change,
    }


def verdict(result: dict[str, Any]) -> str:
    """The last line."""
    peak = f"{result['peak_gib']:.1f} of {result['gpu_gib']:.1f} GiB"
    if result["fits"]:
        return f"fits: {peak} at the peak"
    if result["change"]:
        return f"does not fit ({peak} at the peak); the smallest change found: {result['change']}"
    tried = "smaller packs, checkpointing or LoRA" if result["host"] else "smaller packs, offload, checkpointing, LoRA or 8 devices"
    return f"cannot: {peak} at the peak, and none of {tried} is enough"


def table(result: dict[str, Any]) -> str:
    """The figures as a page of text."""
    columns = list(next(iter(result["phases"].values())))
    used = [c for c in columns if any(row[c] for row in result["phases"].values())]
    width, sizes = max(len(c) for c in used), result["sizes"]
    lines = [
        f"{result['parameters'] / 1e9:.2f}B parameters, {result['trained_parameters'] / 1e9:.3g}B trained, "
        f"on {result['world_size']} x {result['gpu']}",
        f"{sizes['sequences']} sequences a rollout, {sizes['sequences_per_step_and_rank']:g} per optimizer step and rank, "
        f"at most {sizes['longest_sequence']} tokens each, in packs of {sizes['tokens_per_micro_batch']}",
        "",
        ("GiB a process" if result["host"] else "GiB per GPU").ljust(width) + "".join(f"{name:>12}" for name in result["phases"]),
    ]
    for column in used:
        label = column.removesuffix("_gib").replace("_", " ")
        lines.append(label.ljust(width) + "".join(f"{row[column]:>12.2f}" for row in result["phases"].values()))
    host = result["host_gib"]
    lines += [
        "",
        f"host memory of a node: {host['start']:.1f} GiB at the start, {host['peak']:.1f} at the peak",
        f"{result['decoding_sequences']} sequences of full length decode at once; a weight sync moves {result['sync_gib']:.2f} GiB, "
        f"a checkpoint takes {result['checkpoint_gib']:.2f} GiB",
    ]
    if result["seconds"] is not None:
        parts = ", ".join(f"{name} {value:.1f}" for name, value in result["seconds"].items() if name != "rollout")
        shares = ", ".join(f"{name} {value:.0%}" for name, value in result["assumed"].items())
        lines.append(f"seconds a rollout: {result['seconds']['rollout']:.1f} ({parts}); assumed: {shares}")
    return "\n".join([*lines, "", verdict(result)])


def parsed_fit(argv: list[str], device: Literal["cpu", "gpu"] = "gpu") -> dict[str, Any]:
    """The configuration that ``fit`` would run with on such a device, as plain mappings; nothing is built."""
    from aer_lightning.cli import parse

    return parse(["fit", *argv], device=device)


def main(argv: list[str]) -> int:
    """Print the plan of a run; 0 whatever the verdict."""
    parser = argparse.ArgumentParser(
        prog="python -m aer_lightning plan",
        description="What a run needs, from its model's config.json alone. Takes the arguments of fit.",
        allow_abbrev=False,
    )
    parser.add_argument("--gpu", default="h100-80gb", help=f"{', '.join(ACCELERATORS)}, a number of GiB, or cpu")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    own, rest = parser.parse_known_args(argv)
    device = accelerator(own.gpu)
    result = plan(run_facts(parsed_fit(rest, "cpu" if device.host else "gpu")), device)
    print(json.dumps(result) if own.json else table(result))
    return 0
