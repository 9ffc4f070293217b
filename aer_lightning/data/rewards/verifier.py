"""What grades the completions of a run: in this process where the grader is bounded by construction, in a pool of workers where not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aer_lightning.data.rewards.base import Grade, Grader, Outcome
from aer_lightning.data.rewards.combine import Rewards
from aer_lightning.data.rewards.functions import RewardRequest
from aer_lightning.data.rewards.pool import VerifierPool


class Verifier:
    """Grades batches of completions. Usable from any thread, as a context manager, and again after ``close``.

    Args:
        grader: judges one completion; ``grader.isolated`` decides where it runs.
        workers: worker processes of an isolated grader.
        timeout_s: wall-clock seconds for one answer; its worker is then killed and replaced.
        memory_mb: address space of one worker, in MiB.
        rewards: what completions are worth; the grader's score alone if left out.
    """

    def __init__(
        self, grader: Grader, workers: int = 2, timeout_s: float = 5.0, memory_mb: int = 1024, rewards: Rewards | None = None
    ) -> None:
        self.grader, self.rewards = grader, rewards
        # Made in any case: impossible values are refused now, and processes start at the first use.
        self.pool = VerifierPool(grader, workers, timeout_s, memory_mb)

    def start(self) -> None:
        """Start the worker processes, if the grader needs any. Idempotent."""
        if self.grader.isolated:
            self.pool.start()

    def close(self) -> None:
        """End the worker processes. Idempotent."""
        self.pool.close()
        if self.rewards is not None:
            self.rewards.close()

    def __enter__(self) -> Verifier:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process has its own workers."""
        return type(self), (self.grader, self.pool.workers, self.pool.timeout_s, self.pool.memory_mb, self.rewards)

    def grade(self, items: Sequence[tuple[Any, ...]]) -> list[Grade]:
        """Grade ``(completion, gold answer)`` pairs, with the prompt's text and the completion's tokens after them if known, in order.

        The prompt reaches a grader that has a true attribute ``reads_prompt``, as the third argument of its ``grade``. Then the rewards,
        if there are any, score the batch, and their weighted sum is the score of each verdict.
        """
        arguments = [item[:3] if getattr(self.grader, "reads_prompt", False) else item[:2] for item in items]
        grades = self.pool.grade(arguments) if self.grader.isolated else [self._grade_here(*item) for item in arguments]
        if self.rewards is None or not grades:
            return grades
        filled = [(*item, "", None)[:4] if len(item) == 2 else (*item, None)[:4] for item in items]
        return self.rewards.apply(
            [
                RewardRequest(text, answer, prompt, grade, tokens)
                for (text, answer, prompt, tokens), grade in zip(filled, grades, strict=True)
            ]
        )

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Names of the rewards that are summed; none where the grader's score is all."""
        return () if self.rewards is None else self.rewards.names

    def check_golds(self, answers: Sequence[Any]) -> list[str | None]:
        """For each gold answer the reason why it cannot be graded against, or None."""
        if self.grader.isolated:
            return self.pool.check_golds(answers)
        return [self.grader.check_gold(answer) for answer in answers]

    def _grade_here(self, completion: str, *answer_and_prompt: Any) -> Grade:
        start = time.perf_counter()
        try:
            grade = self.grader.grade(completion, *answer_and_prompt)
        except Exception as error:  # a fault of the grader on one answer must not end a run of many
            grade = Grade(Outcome.ERROR, None, f"{type(error).__name__}: {str(error)[:200]}")
        return replace(grade, ms=(time.perf_counter() - start) * 1000)
