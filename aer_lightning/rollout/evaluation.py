"""Graded completions of held-out prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class EvaluationBatch:
    """Graded completions of some prompts of one source.

    Attributes:
        source: name of the source.
        labels: [P] each prompt's group for reporting.
        prompt_ids: [P] names of the prompts.
        outcomes: [P][n] verdicts, see ``Outcome``.
        answers: [P][n] extracted answers in the grader's normal form (equal answers are equal strings), None where there is none.
        lengths: [P][n] tokens.
        scores: [P][n] what the verdicts are worth; empty for 1 where correct and 0 else.
        truncated: [P][n] whether the length limit ended the completion.
        rows: one plain dictionary per completion, for files.
    """

    source: str
    labels: list[str] = field(default_factory=list)
    prompt_ids: list[str] = field(default_factory=list)
    outcomes: list[list[str]] = field(default_factory=list)
    answers: list[list[str | None]] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)
    truncated: list[list[bool]] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def to(self, *args: Any, **kwargs: Any) -> EvaluationBatch:
        """Itself: there is nothing to move."""
        return self
