"""A rollout: what one round of generation yields, and how far training has come through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from aer_lightning.rollout.batch import RolloutBatch, RolloutInfo
from aer_lightning.rollout.packing import deal, plan_packs
from aer_lightning.rollout.sample import Sample


@dataclass
class Rollout:
    """This rank's share of a rollout, in training order, and how far training has come through it.

    Attributes:
        info: facts of the whole rollout.
        steps: this rank's samples of each optimizer step.
        packs: [k] packs of each optimizer step, as places in its samples.
        step_tokens, step_loss_tokens: [k] global denominators of each optimizer step.
        step_sequences: [k] completions of each optimizer step over all ranks that the policy loss counts.
        max_tokens: generation limit, tokens.
        mask_truncated: whether truncated completions are left out of the policy loss.
        mask_truncated_entropy: whether they are left out of H_k and of the bonus.
        step_covariance: [k] statistics for covariance objectives, or empty.
        position: optimizer steps handed out so far.
    """

    info: RolloutInfo
    steps: list[list[Sample]]
    packs: list[list[list[int]]]
    step_tokens: list[float]
    step_loss_tokens: list[float]
    step_sequences: list[float]
    max_tokens: int
    mask_truncated: bool = False
    mask_truncated_entropy: bool = False
    step_covariance: list[dict[str, float]] = field(default_factory=list)
    position: int = 0

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def finished(self) -> bool:
        """Whether every optimizer step has been handed out."""
        return self.position >= len(self)

    @property
    def samples(self) -> list[Sample]:
        """All samples of this rank."""
        return [sample for step in self.steps for sample in step]

    def next_batch(self) -> RolloutBatch:
        """The next optimizer step; moves ``position``."""
        step = self.position
        samples = self.steps[step]
        self.position += 1
        return RolloutBatch(
            samples=samples,
            packs=self.packs[step],
            advantage=torch.tensor([s.advantage for s in samples]),
            reward=torch.tensor([s.reward for s in samples]),
            group_accuracy=torch.tensor([s.group_accuracy for s in samples]),
            sequence_index=torch.tensor([s.sequence for s in samples], dtype=torch.long),
            response_lengths=torch.tensor([len(s.token_ids) for s in samples], dtype=torch.long),
            num_tokens=self.step_tokens[step],
            num_loss_tokens=self.step_loss_tokens[step],
            num_sequences=self.step_sequences[step],
            max_tokens=self.max_tokens,
            info=self.info,
            first=self.position == 1,
            last=self.finished,
            entropy_coefficient=torch.zeros(len(samples)),
            covariance=self.step_covariance[step] if self.step_covariance else None,
            mask_truncated=self.mask_truncated,
            mask_truncated_entropy=self.mask_truncated_entropy,
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and tensors, so that a checkpoint loads with ``weights_only=True``."""
        state = {f.name: getattr(self, f.name) for f in fields(self)}
        state["info"] = asdict(self.info)
        state["steps"] = [[{f.name: getattr(s, f.name) for f in fields(s)} for s in step] for step in self.steps]
        return state

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Rollout:
        """The inverse of ``state_dict``."""
        steps = [[Sample(**sample) for sample in step] for step in state["steps"]]
        return cls(**{**state, "info": RolloutInfo(**state["info"]), "steps": steps})

    @classmethod
    def from_shares(cls, shares: Sequence[dict[str, Any]], rank: int, world_size: int, tokens: int, padded: bool = False) -> Rollout:
        """This rank's share of a rollout that another number of ranks had in flight: its sequences are dealt anew.

        Args:
            shares: the ``state_dict`` of every rank that had a share.
            rank, world_size: of this run.
            tokens: bound on the tokens of a pack.
            padded: whether packs are computed as padded rectangles.
        """
        if len(shares) == world_size:
            return cls.from_state_dict(shares[rank])
        parts = [cls.from_state_dict(share) for share in shares]
        whole = parts[0]
        whole.packs = list(whole.packs)
        for k in range(len(whole)):
            samples = sorted((s for part in parts for s in part.steps[k]), key=lambda s: s.sequence)
            lengths = [len(s) for s in samples]
            dealt = deal(lengths, world_size)
            whole.packs[k] = plan_packs([[lengths[i] for i in share] for share in dealt], tokens, padded)[rank]
            whole.steps[k] = [samples[i] for i in dealt[rank]]
        return whole
