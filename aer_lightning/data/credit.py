"""Credit: from the rewards of a rollout to advantages, and the sizes that its losses are divided by. Over all ranks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

import torch

from aer_lightning.algorithms.advantages import compute_advantages, soft_overlong_penalty
from aer_lightning.algorithms.objectives import CovarianceObjective, kl_penalised_rewards
from aer_lightning.data.shaping import Shaping
from aer_lightning.distributed import gather_objects, sum_over_ranks
from aer_lightning.rollout import Sample, Sizes


class Credited(Protocol):
    """What the reward's KL penalty needs of the policy."""

    kl_weight: float
    kl_in: str


def assign_advantages(samples: list[Sample], sizes: Sizes, max_tokens: int, shaping: Shaping, policy: Credited) -> None:
    """Shape rewards, then advantages from the rewards of all ranks, so that batch statistics are global."""
    if shaping.overlong is not None:
        lengths = torch.tensor([len(s.token_ids) for s in samples])
        penalty = soft_overlong_penalty(lengths, max_tokens, shaping.overlong.buffer, shaping.overlong.factor)
        for s, p in zip(samples, penalty.tolist(), strict=True):
            s.reward += p
    if policy.kl_weight and policy.kl_in == "reward":
        for s in samples:
            assert s.old_logprob is not None and s.reference_logprob is not None
            mask = torch.ones(1, len(s.token_ids), dtype=torch.bool)
            rows = (torch.tensor([s.reward]), s.old_logprob[None], s.reference_logprob[None], mask)
            s.reward = float(kl_penalised_rewards(*rows, policy.kl_weight))
    rewards, lengths = torch.zeros(sizes.sequences), torch.zeros(sizes.sequences)
    for share in gather_objects([(s.sequence, s.reward, len(s.token_ids)) for s in samples]):
        for place, reward, length in share:
            rewards[place], lengths[place] = reward, length
    groups = rewards.view(sizes.prompts, -1), lengths.view(sizes.prompts, -1)
    advantages = compute_advantages(groups[0], shaping.advantage, shaping.advantage_eps, groups[1]).flatten().tolist()
    for s in samples:
        s.advantage = advantages[s.sequence]


def denominators(steps: list[list[Sample]], shaping: Shaping, device: torch.device | str) -> tuple[list[float], list[float], list[float]]:
    """Each step's global counts: tokens whose entropy counts, tokens and completions in the policy loss."""
    k = len(steps)
    entropy = [[s for s in step if not (shaping.mask_truncated_entropy and s.truncated)] for step in steps]
    kept = [[s for s in step if not (shaping.mask_truncated and s.truncated)] for step in steps]
    counts = [float(sum(len(s.token_ids) for s in step)) for step in [*entropy, *kept]] + [float(len(step)) for step in kept]
    counts = sum_over_ranks(counts, device)
    return counts[:k], counts[k : 2 * k], counts[2 * k :]


def covariance_statistics(steps: list[list[Sample]], shaping: Shaping, objective: Any) -> list[dict[str, float]]:
    """Statistics of each whole optimizer step for objectives that need them; empty for the others."""
    if not isinstance(objective, CovarianceObjective):
        return []
    result = []
    for step in steps:
        kept = [(s.old_logprob, s.advantage, s.sequence) for s in step if not (shaping.mask_truncated and s.truncated)]
        rows: list[Any] = [row for share in gather_objects(kept) for row in share]
        if not rows:
            rows = [(torch.zeros(0), 0.0, 0)]
        logprob = torch.nn.utils.rnn.pad_sequence([r[0] for r in rows], batch_first=True)
        mask = torch.arange(logprob.shape[1])[None] < torch.tensor([len(r[0]) for r in rows])[:, None]
        statistics = objective.statistics(logprob, torch.tensor([r[1] for r in rows]), mask, torch.tensor([r[2] for r in rows]))
        result.append({name: float(value) for name, value in asdict(statistics).items()})
    return result
