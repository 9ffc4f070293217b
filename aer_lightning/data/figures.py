"""Figures of a rollout, reduced over all ranks as sums and counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aer_lightning.data.rewards.base import Outcome
from aer_lightning.distributed import sum_over_ranks
from aer_lightning.rollout import Sample


def outcome_rates(samples: Sequence[Sample], device: torch.device | str) -> dict[str, float]:
    """Share of each outcome over all ranks."""
    counts = [float(sum(s.outcome == o.value for s in samples)) for o in Outcome]
    *sums, total = sum_over_ranks([*counts, float(len(samples))], device)
    return {o.value: n / max(total, 1.0) for o, n in zip(Outcome, sums, strict=True)}


def group_figures(groups: Sequence[list[Sample]], device: torch.device | str) -> dict[str, float]:
    """Means over completions and groups of all ranks: reward, length, truncation, mixed groups, difficulty."""
    samples = [s for group in groups for s in group]
    local = [
        float(len(samples)),
        float(len(groups)),
        sum(s.reward for s in samples),
        float(sum(len(s.token_ids) for s in samples)),
        float(sum(s.truncated for s in samples)),
        float(sum(0 < group[0].group_accuracy < 1 for group in groups)),
        float(sum(group[0].group_accuracy == 0 for group in groups)),
    ]
    n, g, reward, tokens, truncated, mixed, all_wrong = sum_over_ranks(local, device)
    return {
        "reward": reward / n,
        "response_length": tokens / n,
        "truncated": truncated / n,
        "mixed_groups": mixed / g,
        "all_wrong_groups": all_wrong / g,
    }


def part_means(samples: Sequence[Sample], names: Sequence[str], device: torch.device | str) -> dict[str, float]:
    """Mean score of each reward by name over all ranks, unweighted, as ``reward/<name>``."""
    if not names:
        return {}
    local = [sum(s.parts.get(name, 0.0) for s in samples) for name in names]
    *sums, total = sum_over_ranks([*local, float(len(samples))], device)
    return {f"reward/{name}": value / max(total, 1.0) for name, value in zip(names, sums, strict=True)}


def tokens_by_correct(samples: Sequence[Sample], responses: int, device: torch.device | str) -> list[float]:
    """[responses + 1] response tokens over all ranks, by how many of the sample's group are correct."""
    counts = [0.0] * (responses + 1)
    for s in samples:
        counts[round(s.group_accuracy * responses)] += len(s.token_ids)
    return sum_over_ranks(counts, device)
