"""One completion with everything known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from aer_lightning.rollout.outcome import Outcome


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
        answer: the gold answer.
        reason: the verifier's words where it has any.
        score: what the verdict is worth; 1 for correct and 0 else, unless the grader or the rewards say otherwise.
        parts: the scores of several rewards by name, of which ``score`` is the weighted sum.
        reward: what the advantage is made from: the score, plus any shaping.
        group_accuracy: g(q), the share of the group that is correct.
        advantage: A_i.
        old_logprob: [T] the policy's log-probabilities before the update, nat.
        entropy: [T] the policy's entropies before the update, nat.
        reference_logprob: [T] the reference's, or None where no KL term asks for them.
        coefficient: lambda(q) that it was trained with; None before.
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
    answer: Any = None
    reason: str = ""
    score: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    reward: float = 0.0
    group_accuracy: float = 0.0
    advantage: float = 0.0
    old_logprob: Tensor | None = None
    entropy: Tensor | None = None
    reference_logprob: Tensor | None = None
    coefficient: float | None = None

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
