"""Rates of outcomes, and the policy for when too many answers get no honest verdict."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from aer_lightning.data.rewards.base import Grade, Outcome
from aer_lightning.errors import ConfigError, UserError


class VerifierOutcomeError(UserError):
    """Too many answers of a rollout timed out, failed or had a bad gold answer."""


def outcome_counts(grades: Iterable[Grade]) -> dict[str, int]:
    """How many grades have each outcome; every outcome is a key."""
    counts = Counter(grade.outcome for grade in grades)
    return {outcome.value: counts[outcome] for outcome in Outcome}


def outcome_rates(grades: Sequence[Grade]) -> dict[str, float]:
    """Share of each outcome, between 0 and 1; every outcome is a key. All 0 for no grades."""
    total = max(len(grades), 1)
    return {name: count / total for name, count in outcome_counts(grades).items()}


@dataclass(frozen=True)
class OutcomeLimits:
    """Largest share of answers that may end without an honest verdict.

    Attributes:
        max_timeout: share of timeouts, between 0 and 1.
        max_error: share of errors.
        max_bad_gold: share of bad gold answers.
        action: ``stop`` raises VerifierOutcomeError, ``warn`` warns and goes on, unless no answer at all got an honest verdict.
    """

    max_timeout: float = 0.1
    max_error: float = 0.02
    max_bad_gold: float = 0.02
    action: Literal["warn", "stop"] = "warn"

    def __post_init__(self) -> None:
        for name in ("max_timeout", "max_error", "max_bad_gold"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}: {getattr(self, name)} is not between 0 and 1")
        if self.action not in ("warn", "stop"):
            raise ConfigError(f"action: {self.action!r} is neither 'warn' nor 'stop'")

    def check(self, grades: Sequence[Grade]) -> list[str]:
        """Compare the rates of ``grades`` with the limits; returns one line for each limit that is exceeded.

        Raises VerifierOutcomeError instead if ``action`` is ``stop``, or, whatever the limits, if every answer is one of these three:
        nothing is learnt then.
        """
        rates = outcome_rates(grades)
        lines = []
        for outcome, option in ((Outcome.TIMEOUT, "max_timeout"), (Outcome.ERROR, "max_error"), (Outcome.BAD_GOLD, "max_bad_gold")):
            rate, limit = rates[outcome.value], getattr(self, option)
            if rate > limit:
                example = next(grade.reason for grade in grades if grade.outcome is outcome)
                lines.append(f"{rate:.1%} of {len(grades)} answers are {outcome.value} ({option} is {limit:g}); for example: {example}")
        hopeless = bool(grades) and all(grade.outcome in (Outcome.TIMEOUT, Outcome.ERROR, Outcome.BAD_GOLD) for grade in grades)
        if hopeless and not lines:
            lines = [f"none of {len(grades)} answers got an honest verdict; for example: {grades[0].reason}"]
        if hopeless or (lines and self.action == "stop"):
            raise VerifierOutcomeError(f"data.init_args.limits: {'; '.join(lines)}")
        for line in lines:
            warnings.warn(f"verifier: {line}", stacklevel=2)
        return lines
