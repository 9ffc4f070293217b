"""What a verifier may say about one completion."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """Verdict on one completion. Only ``CORRECT`` is worth a reward of 1; every other one is worth 0."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    TIMEOUT = "timeout"
    ERROR = "error"
    BAD_GOLD = "bad_gold"
