"""Seconds of a rollout by phase, from counted operations and bytes and stated utilisation."""

from __future__ import annotations

from aer_lightning.plan.facts import RunFacts
from aer_lightning.plan.hardware import UTILISATION, Accelerator
from aer_lightning.plan.memory import GIB, sync_bytes

MEAN_SHARE = 0.5  # of max_new_tokens that a completion has on average; lengths are not known beforehand


def work(run: RunFacts) -> dict[str, float]:
    """Counted operations and bytes of one rollout on one process.

    Training is 6 operations a weight and token (8 with recomputed layers), scoring 2; attention and the head on top.
    """
    model, config = run.model, run.model.config
    length = run.max_prompt + MEAN_SHARE * run.max_new
    response = MEAN_SHARE * run.max_new
    count = run.sequences / run.world_size
    head = config.hidden_size * config.vocab_size
    width = (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads) * config.num_attention_heads
    attention = 2 * model.layers * width * length**2  # forward, causal: half of 4 L^2
    forward = 2 * model.decoder * length + attention
    train = count * ((4 if run.checkpointing else 3) * forward + 8 * head * response)
    score = count * (forward + 2 * head * response) * (run.scored + run.reference)
    decode = response * (model.parameters * 2 + count * model.kv_bytes * length)  # bytes: weights and the cache, once a token
    return {"train_flops": train, "score_flops": score, "decode_bytes": decode, "sync_bytes": float(sync_bytes(run))}


def seconds(run: RunFacts, device: Accelerator) -> dict[str, float] | None:
    """Seconds of a rollout by phase; None for a device whose speed is not known."""
    if device.tflops is None or device.bandwidth_gbs is None or device.link_gbs is None:
        return None
    counted, rate = work(run), device.tflops * 1e12
    gathers = (2 * run.model.parameters * (2 if run.mixed else 4)) if run.sharded and run.world_size > 1 else 0
    packs = max(1.0, run.sequences / run.world_size * (run.max_prompt + MEAN_SHARE * run.max_new) / run.tokens)
    link = gathers * packs / (device.link_gbs * 1e9 * UTILISATION["link"])
    out = {
        "generate": counted["decode_bytes"] / (device.bandwidth_gbs * 1e9 * UTILISATION["decode_bandwidth"]),
        "score": counted["score_flops"] / (rate * UTILISATION["score"]),
        "train": max(counted["train_flops"] / (rate * UTILISATION["train"]), link),
        "sync": counted["sync_bytes"] / (device.link_gbs * 1e9 * UTILISATION["link"]),
    }
    if run.offload != "none":
        moved = 2 * run.trained * run.optimizer_bytes / (run.world_size if run.sharded else 1)
        out["offload"] = moved / (20 * GIB)  # PCIe, page-locked
    return {name: round(value, 3) for name, value in out.items()} | {"rollout": round(sum(out.values()), 3)}
