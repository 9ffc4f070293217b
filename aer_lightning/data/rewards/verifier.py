"""What grades the completions of a run: in this process where the grader is bounded by construction, in a pool of workers where not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from aer_lightning.data.rewards.base import Grade, Grader, Outcome
from aer_lightning.data.rewards.echo import warn_of_echoes
from aer_lightning.data.rewards.pool import VerifierPool


class Verifier:
    """Grades batches of completions. Usable from any thread, as a context manager, and again after ``close``.

    Args:
        grader: judges one completion; ``grader.isolated`` decides where it runs.
        workers: worker processes of an isolated grader.
        timeout_s: wall-clock seconds for one answer; its worker is then killed and replaced.
        memory_mb: address space of one worker, in MiB.
    """

    def __init__(self, grader: Grader, workers: int = 2, timeout_s: float = 5.0, memory_mb: int = 1024):
        self.grader = grader
        # Made in any case: impossible values are refused now, and processes start at the first use.
        self.pool = VerifierPool(grader, workers, timeout_s, memory_mb)

    def start(self) -> None:
        """Start the worker processes, if the grader needs any. Idempotent."""
        if self.grader.isolated:
            self.pool.start()

    def close(self) -> None:
        """End the worker processes. Idempotent."""
        self.pool.close()

    def __enter__(self) -> Verifier:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process has its own workers."""
        return type(self), (self.grader, self.pool.workers, self.pool.timeout_s, self.pool.memory_mb)

    def grade(self, items: Sequence[tuple[Any, ...]]) -> list[Grade]:
        """Grade ``(completion, gold answer)`` pairs or ``(completion, gold answer, prompt)`` triples; verdicts in the same order.

        The prompt's text reaches a grader that has a true attribute ``reads_prompt``, as the third argument of its ``grade``. Where prompts
        are given, a warning says when most completions that are paid for have no number beyond their prompt's, unless the grader has a true
        attribute ``answers_from_prompt``.
        """
        arguments = items if getattr(self.grader, "reads_prompt", False) else [item[:2] for item in items]
        grades = self.pool.grade(arguments) if self.grader.isolated else [self._grade_here(*item) for item in arguments]
        if not getattr(self.grader, "answers_from_prompt", False):
            warn_of_echoes((item[2], item[0]) for item, grade in zip(items, grades, strict=True) if grade.reward > 0 and len(item) > 2)
        return grades

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
        return Grade(grade.outcome, grade.extracted, grade.reason, (time.perf_counter() - start) * 1000)
