"""What a verifier says about one completion, and the protocol of everything that says it. No heavy imports."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from aer_lightning.rollout.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Grade:
    """One verdict.

    Attributes:
        outcome: the verdict.
        extracted: the answer found in the completion, or None.
        reason: a few words for a person, empty where the outcome says it all.
        ms: wall-clock milliseconds that the verdict took.
        score: what the completion is worth, any finite number; None for 1 where the outcome is correct and 0 where it is not.
        parts: the scores of several rewards by name, of which ``score`` is the weighted sum.

    Accuracy, pass@k, g(q) and difficulty count outcomes; only advantages are made from scores.
    """

    outcome: Outcome
    extracted: str | None = None
    reason: str = ""
    ms: float = 0.0
    score: float | None = None
    parts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"score: {self.score} is no finite number")

    @property
    def reward(self) -> float:
        """The score; without one 1.0 for a correct answer, else 0.0."""
        if self.score is not None:
            return float(self.score)
        return 1.0 if self.outcome is Outcome.CORRECT else 0.0


@runtime_checkable
class Grader(Protocol):
    """Grades one completion. Picklable, because graders of untrusted mathematics run in worker processes.

    Attributes:
        isolated: True if ``grade`` may hang, blow up or run out of memory on hostile text and therefore
            has to run in a killable worker process; False if it is bounded by construction.
    """

    @property
    def isolated(self) -> bool:
        """See the class; a plain attribute will do."""
        ...

    def check_gold(self, answer: Any) -> str | None:
        """Return None if the gold ``answer`` can be graded against, else the reason why it cannot."""
        ...

    def grade(self, completion: str, answer: Any) -> Grade:
        """Grade the text of one completion against the gold ``answer``."""
        ...
