"""A rollout: what one round of generation yields, and the micro-batches it is trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from aer_lightning.data.rewards.base import Outcome


@dataclass
class Sample:
    """One completion with everything known of it.

    Attributes:
        prompt_id: the prompt's name.
        label: the prompt's group for reporting, such as its difficulty.
        index: place in its group, 0 <= index < G.
        sequence: place in the whole rollout, 0 <= sequence < P x G.
        prompt_ids: [P] token ids of the prompt.
        token_ids: [T] sampled ids, the end token included.
        behaviour_logprob: [T] the engine's log-probabilities, nat.
        finish_reason: "stop" or "length".
        outcome: the verifier's verdict.
        text: the completion as text (what the verifier read).
        extracted: the answer the verifier found.
        reason: the verifier's words where it has any.
        reward: what the advantage is made from; 1 for correct, plus any shaping.
        group_accuracy: g(q), the share of the group that is correct.
        advantage: A_i.
        old_logprob: [T] the policy's log-probabilities before the update, nat.
        entropy: [T] the policy's entropies before the update, nat.
        reference_logprob: [T] the reference's, or None where no KL term asks for them.
    """

    prompt_id: str
    label: str
    index: int
    sequence: int
    prompt_ids: list[int]
    token_ids: list[int]
    behaviour_logprob: Tensor
    finish_reason: str
    outcome: str = Outcome.WRONG.value
    text: str = ""
    extracted: str | None = None
    reason: str = ""
    reward: float = 0.0
    group_accuracy: float = 0.0
    advantage: float = 0.0
    old_logprob: Tensor | None = None
    entropy: Tensor | None = None
    reference_logprob: Tensor | None = None

    @property
    def correct(self) -> bool:
        """Whether the verifier found the answer correct."""
        return self.outcome == Outcome.CORRECT.value

    @property
    def truncated(self) -> bool:
        """Whether the completion ran into the length limit."""
        return self.finish_reason == "length"

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.token_ids)


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
    """

    index: int
    weight_version: int
    temperature: float
    entropy: float
    num_tokens: int
    num_sequences: int
    stats: dict[str, float] = field(default_factory=dict)


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
