"""Faults put into a run on purpose, for the pictures of docs/diagnosis.md. Class paths for a configuration; nothing else uses them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from aer_lightning.data.engines import TransformersEngine
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.data.rewards.base import Grade, Outcome
from aer_lightning.data.rewards.countdown import CountdownGrader, ExpressionError, evaluate


class StaleEngine(TransformersEngine):
    """Takes new weights only every `every`-th time, and says that it has them."""

    def __init__(self, every: int = 1_000_000) -> None:
        super().__init__()
        self.every, self.asked = every, 0

    def sync_weights(self, named_weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """See `TransformersEngine`."""
        if self.asked % self.every == 0:
            super().sync_weights(named_weights, version)
        self.asked += 1
        self.weight_version = version


class ValueBlindGrader(CountdownGrader):
    """Pays every expression with the right numbers, whatever its value."""

    def grade(self, completion: str, answer: Any) -> Grade:
        """See `CountdownGrader`."""
        try:
            numbers, _ = evaluate(completion)
        except ExpressionError as error:
            return Grade(Outcome.UNPARSED, None, str(error))
        right = Counter(numbers) == Counter(answer["numbers"])
        return Grade(Outcome.CORRECT if right else Outcome.WRONG, completion.strip())


class LengthGrader(CountdownGrader):
    """Pays a right answer, and any text of 10 characters or more."""

    def grade(self, completion: str, answer: Any) -> Grade:
        """See `CountdownGrader`."""
        grade = super().grade(completion, answer)
        return Grade(Outcome.CORRECT, completion) if len(completion.strip()) >= 10 else grade


class ValueBlindPrompts(CountdownPrompts):
    """Countdown with `ValueBlindGrader`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.grader = ValueBlindGrader()


class LengthPrompts(CountdownPrompts):
    """Countdown with `LengthGrader`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.grader = LengthGrader()
