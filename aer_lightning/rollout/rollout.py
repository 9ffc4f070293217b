"""A rollout: what one round of generation yields, and how far training has come through it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from aer_lightning.rollout.batch import RolloutBatch, RolloutInfo, collate
from aer_lightning.rollout.sample import Sample


@dataclass
class Rollout:
    """This rank's share of a rollout, in training order, and how far training has come through it.

    Attributes:
        info: facts of the whole rollout.
        steps: one list of samples per optimizer step, sorted by length so that micro-batches pad little.
        step_tokens, step_loss_tokens: [k] global denominators of each optimizer step.
        step_sequences: [k] completions of each optimizer step over all ranks that the policy loss counts.
        micro_batch_size: sequences per micro-batch on this rank.
        pad_id: token id for padding.
        max_tokens: generation limit, tokens.
        mask_truncated: whether truncated completions are left out of the policy loss.
        step_covariance: [k] statistics for covariance objectives, or empty.
        position: micro-batches handed out so far.
    """

    info: RolloutInfo
    steps: list[list[Sample]]
    step_tokens: list[float]
    step_loss_tokens: list[float]
    step_sequences: list[float]
    micro_batch_size: int
    pad_id: int
    max_tokens: int
    mask_truncated: bool = False
    step_covariance: list[dict[str, float]] = field(default_factory=list)
    position: int = 0

    def __len__(self) -> int:
        return sum(len(step) for step in self.steps) // self.micro_batch_size

    @property
    def finished(self) -> bool:
        """Whether every micro-batch has been handed out."""
        return self.position >= len(self)

    @property
    def samples(self) -> list[Sample]:
        """All samples of this rank."""
        return [sample for step in self.steps for sample in step]

    def next_batch(self) -> RolloutBatch:
        """The next micro-batch; moves ``position``."""
        per_step = len(self.steps[0]) // self.micro_batch_size
        step, micro = divmod(self.position, per_step)
        samples = self.steps[step][micro * self.micro_batch_size : (micro + 1) * self.micro_batch_size]
        self.position += 1
        tensors = collate(samples, self.pad_id)
        loss_mask = tensors["response_mask"]
        if self.mask_truncated:
            loss_mask = loss_mask & ~torch.tensor([s.truncated for s in samples])[:, None]
        fields_: dict[str, Any] = {"reference_logprob": None, **tensors}
        return RolloutBatch(
            **fields_,
            loss_mask=loss_mask,
            advantage=torch.tensor([s.advantage for s in samples]),
            reward=torch.tensor([s.reward for s in samples]),
            group_accuracy=torch.tensor([s.group_accuracy for s in samples]),
            sequence_index=torch.tensor([s.sequence for s in samples]),
            prompt_ids=[s.prompt_id for s in samples],
            num_tokens=self.step_tokens[step],
            num_loss_tokens=self.step_loss_tokens[step],
            num_sequences=self.step_sequences[step],
            max_tokens=self.max_tokens,
            info=self.info,
            first=self.position == 1,
            last=self.finished,
            entropy_coefficient=torch.zeros(len(samples)),
            covariance=self.step_covariance[step] if self.step_covariance else None,
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
