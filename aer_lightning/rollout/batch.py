"""What one step of training gets: facts of the rollout, and its sequences as tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from aer_lightning.rollout.sample import Sample


@dataclass
class RolloutInfo:
    """Facts of a whole rollout, the same on every rank.

    Attributes:
        index: number of rollouts before this one in the run.
        weight_version: version of the policy that generated it.
        temperature: sampling temperature, which every probability of the policy uses too.
        entropy: H_k, entropy per response token over all responses, micro-batches and ranks, nat.
        num_tokens: response tokens in the rollout.
        num_sequences: completions in the rollout.
        stats: further figures, logged as ``rollout/<name>``.
        tokens_by_correct: [G + 1] response tokens of the groups with 0, 1, .. G right answers; difficulty weights are normalised with it.
    """

    index: int
    weight_version: int
    temperature: float
    entropy: float
    num_tokens: int
    num_sequences: int
    stats: dict[str, float] = field(default_factory=dict)
    tokens_by_correct: list[float] = field(default_factory=list)


@dataclass
class RolloutBatch:
    """One micro-batch: B sequences of prompt and completion, right-padded to L tokens.

    Per-token tensors are aligned with ``input_ids``: the value at position t belongs to the token at t given those before it.

    Attributes:
        input_ids: [B, L] token ids.
        attention_mask: [B, L] bool, True on prompt and completion.
        response_mask: [B, L] bool, True on completion tokens.
        loss_mask: [B, L] bool, the completion tokens that the policy loss counts.
        old_logprob: [B, L] policy before the update, nat; 0 outside the completion, as the next two.
        behaviour_logprob: [B, L] engine, nat.
        reference_logprob: [B, L] reference, nat, or None.
        advantage: [B].
        reward: [B].
        group_accuracy: [B] g(q) of each sequence's prompt.
        sequence_index: [B] place of each sequence in the whole rollout.
        prompt_ids: [B] names of the prompts.
        num_tokens: response tokens of the whole optimizer step over all micro-batches and ranks: the loss denominator.
        num_loss_tokens: those that ``loss_mask`` keeps.
        num_sequences: completions of the whole optimizer step over all ranks that ``loss_mask`` keeps.
        max_tokens: the generation limit, tokens.
        info: facts of the rollout.
        first, last: whether this is the rollout's first / last micro-batch on this rank.
        entropy_coefficient: [B] lambda, written by the coefficient callbacks before ``training_step``; 0 without them.
        target_entropy: H*, nat, written by the anchor; None without one.
        covariance: statistics of the whole optimizer step for objectives that select tokens by covariance, or None.
    """

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor
    loss_mask: Tensor
    old_logprob: Tensor
    behaviour_logprob: Tensor
    reference_logprob: Tensor | None
    advantage: Tensor
    reward: Tensor
    group_accuracy: Tensor
    sequence_index: Tensor
    prompt_ids: list[str]
    num_tokens: float
    num_loss_tokens: float
    num_sequences: float
    max_tokens: int
    info: RolloutInfo
    first: bool
    last: bool
    entropy_coefficient: Tensor
    target_entropy: float | None = None
    covariance: dict[str, float] | None = None

    def to(self, device: torch.device | str, **kwargs: Any) -> RolloutBatch:
        """The same batch with its tensors on ``device``."""
        moved: dict[str, Any] = {f.name: v.to(device, **kwargs) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved)


def collate(samples: list[Sample], pad_id: int) -> dict[str, Tensor]:
    """Right-pad samples into the tensors of a ``RolloutBatch`` that need no more than the samples.

    Returns:
        ``input_ids``, ``attention_mask``, ``response_mask`` and the per-token log-probabilities that the samples have, all [B, L].
    """
    length = max(len(s) for s in samples)
    out = {
        "input_ids": torch.full((len(samples), length), pad_id, dtype=torch.long),
        "attention_mask": torch.zeros((len(samples), length), dtype=torch.bool),
        "response_mask": torch.zeros((len(samples), length), dtype=torch.bool),
    }
    per_token = [n for n in ("behaviour_logprob", "old_logprob", "reference_logprob") if getattr(samples[0], n) is not None]
    out |= {name: torch.zeros((len(samples), length)) for name in per_token}
    for row, sample in enumerate(samples):
        start, end = len(sample.prompt_ids), len(sample)
        out["input_ids"][row, :end] = torch.tensor(sample.prompt_ids + sample.token_ids)
        out["attention_mask"][row, :end] = True
        out["response_mask"][row, start:end] = True
        for name in per_token:
            out[name][row, start:end] = getattr(sample, name)
    return out
