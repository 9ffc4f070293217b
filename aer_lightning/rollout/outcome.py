"""What a verifier may say about one completion."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """Verdict on one completion. ``CORRECT`` is worth a reward of 1 and every other one 0, unless the grader gives a score of its own."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    TIMEOUT = "timeout"
    ERROR = "error"
    BAD_GOLD = "bad_gold"
