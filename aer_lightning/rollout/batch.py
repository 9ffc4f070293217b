"""What one optimizer step gets: facts of the rollout, and this rank's sequences of the step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from aer_lightning.rollout.pack import Pack, make_pack
from aer_lightning.rollout.sample import Sample


@dataclass
class RolloutInfo:
    """Facts of a whole rollout, the same on every rank.

    Attributes:
        index: number of rollouts before this one in the run.
        weight_version: version of the policy that generated it.
        temperature: sampling temperature, which every probability of the policy uses too.
        entropy: H_k, entropy per response token over all responses, packs and ranks, nat; NaN until it is measured, which is before
            the rollout's first update.
        num_tokens: response tokens in the rollout.
        num_sequences: completions in the rollout.
        stats: further figures, logged as ``rollout/<name>``.
        tokens_by_correct: [G + 1] response tokens of the groups with 0, 1, .. G right answers; difficulty weights are normalised with it.
        max_mismatch: mean |d logp| in nat between engine and trainer above which the run stops.
    """

    index: int
    weight_version: int
    temperature: float
    entropy: float
    num_tokens: int
    num_sequences: int
    stats: dict[str, float] = field(default_factory=dict)
    tokens_by_correct: list[float] = field(default_factory=list)
    max_mismatch: float = float("inf")


@dataclass
class RolloutBatch:
    """One optimizer step: this rank's B sequences of it.

    Attributes:
        samples: [B] the sequences.
        packs: which of them are computed together, the same number of packs on every rank; see ``aer_lightning.rollout.packing``.
        advantage: [B].
        reward: [B].
        group_accuracy: [B] g(q) of each sequence's prompt.
        sequence_index: [B] place of each sequence in the whole rollout.
        response_lengths: [B] tokens of each completion.
        num_tokens: response tokens of the whole optimizer step over all packs and ranks whose entropy counts: the bonus' denominator.
        num_loss_tokens: those that the policy loss counts: its denominator.
        num_sequences: completions of the whole optimizer step over all ranks that the policy loss counts.
        max_tokens: the generation limit, tokens.
        info: facts of the rollout.
        first, last: whether this is the rollout's first / last optimizer step.
        entropy_coefficient: [B] lambda, written by the coefficient callbacks before ``training_step``; 0 without them.
        target_entropy: H*, nat, written by the anchor; None without one, and before the first rollout is measured.
        scalars: further numbers that callbacks hand to the objective.
        covariance: statistics of the whole optimizer step for objectives that select tokens by covariance, or None.
        mask_truncated: leave truncated completions out of the policy loss.
        mask_truncated_entropy: leave them out of H_k and of the bonus.
    """

    samples: list[Sample]
    packs: list[list[int]]
    advantage: Tensor
    reward: Tensor
    group_accuracy: Tensor
    sequence_index: Tensor
    response_lengths: Tensor
    num_tokens: float
    num_loss_tokens: float
    num_sequences: float
    max_tokens: int
    info: RolloutInfo
    first: bool
    last: bool
    entropy_coefficient: Tensor
    target_entropy: float | None = None
    scalars: dict[str, float] = field(default_factory=dict)
    covariance: dict[str, float] | None = None
    mask_truncated: bool = False
    mask_truncated_entropy: bool = False

    @property
    def prompt_ids(self) -> list[str]:
        """[B] names of the prompts."""
        return [s.prompt_id for s in self.samples]

    @property
    def scored(self) -> bool:
        """Whether log-probabilities and entropies before the update are known; if not, the training forward measures them."""
        return all(s.old_logprob is not None for s in self.samples)

    def to(self, device: torch.device | str, **kwargs: Any) -> RolloutBatch:
        """The same batch with its tensors on ``device``; samples stay where they are."""
        moved: dict[str, Any] = {f.name: v.to(device, **kwargs) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved)

    def tensors(self) -> Iterator[Pack]:
        """The packs as tensors on the device of ``advantage``, one at a time."""
        for places in self.packs:
            yield make_pack(
                [self.samples[i] for i in places],
                places,
                mask_truncated=self.mask_truncated,
                mask_truncated_entropy=self.mask_truncated_entropy,
            ).to(self.advantage.device)
