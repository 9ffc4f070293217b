"""What a verifier says about one completion, and the protocol of everything that says it. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    outcome: Outcome
    extracted: str | None = None
    reason: str = ""
    ms: float = 0.0

    @property
    def reward(self) -> float:
        """1.0 for a correct answer, else 0.0."""
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
