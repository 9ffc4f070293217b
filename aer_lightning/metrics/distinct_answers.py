"""Diversity: how many different answers the samples of a problem give."""

from __future__ import annotations

from collections import Counter
from math import log
from typing import Any, Literal

import torch
from torch import Tensor

from aer_lightning.errors import ConfigError
from aer_lightning.metrics.maj_at_k import Answers, Verdicts, check_answers
from aer_lightning.metrics.problem_mean import ProblemMean, _problem_mean_compute, _problem_mean_update

Measure = Literal["share", "entropy"]


def _check_measure(measure: str) -> None:
    if measure not in ("share", "entropy"):
        raise ConfigError(f'measure must be "share" or "entropy", not {measure!r}')


def _distinct_answers_update(answers: Answers, correct: Verdicts | None, measure: Measure) -> Tensor:
    """Diversity of every problem, [P] float64; NaN where no sample counts."""
    _check_measure(measure)
    check_answers(answers, correct if correct is not None else [[True] * len(row) for row in answers])
    values = []
    for i, row in enumerate(answers):
        counted = [a for j, a in enumerate(row) if a is not None and (correct is None or correct[i][j])]
        counts, total = Counter(counted).values(), len(counted)
        if not total:
            values.append(float("nan"))
        elif measure == "share":
            values.append(len(counts) / total)
        else:
            values.append(-sum(count / total * log(count / total) for count in counts))
    return torch.tensor(values, dtype=torch.float64)


def distinct_answers(answers: Answers, correct: Verdicts | None = None, measure: Measure = "share") -> Tensor:
    """Diversity of a problem's answers, averaged over problems.

    Answers are equal if their strings are; a completion without an answer (None) does not count. A problem on which no sample
    counts is left out of the average.

    Args:
        answers: extracted answers, [P][n].
        correct: verdicts, [P][n]: if given, right answers alone are counted (how many ways to be right the policy still knows).
        measure: ``share``: different answers / answers counted, in (0, 1]; it falls with n, so compare at equal n.
            ``entropy``: entropy of the observed frequencies of answers, in nat (plug-in estimate, at most log n).

    Returns:
        Scalar, float32; NaN if no problem counts.

    Raises:
        ConfigError: ``measure`` is unknown, or the arguments do not match.

    Example:
        >>> distinct_answers([["1+2", "2+1", "1+2", "1*2"]])
        tensor(0.7500)
        >>> distinct_answers([["1+2", "2+1", "1+2", "1*2"]], correct=[[True, True, True, False]])
        tensor(0.6667)
        >>> distinct_answers([["1+2", "2+1", "1+2", "1*2"]], measure="entropy")
        tensor(1.0397)
    """
    return _problem_mean_compute(*_problem_mean_update(_distinct_answers_update(answers, correct, measure), None, 1))[0][0]


class DistinctAnswers(ProblemMean):
    """Diversity of a problem's answers, averaged over problems, as in :func:`distinct_answers`.

    ``update`` takes ``answers`` [P][n], with ``correct_only`` also ``correct`` [P][n], and, with ``num_groups``, ``groups`` [P].

    Args:
        measure: ``share`` or ``entropy`` (nat).
        correct_only: count right answers alone.
        num_groups: if set, one result a group, [G].
        standard_error: if True, ``compute`` returns ``(mean, standard error over problems)``.
        kwargs: for :class:`torchmetrics.Metric`.

    Raises:
        ConfigError: ``measure`` is unknown, ``correct`` is missing with ``correct_only``, or the arguments do not match.

    Example:
        >>> metric = DistinctAnswers(correct_only=True)
        >>> metric.update([["1+2", "2+1", "1+2", "1*2"]], [[True, True, True, False]])
        >>> metric.compute()
        tensor(0.6667)
    """

    higher_is_better = None  # neither is: a collapsed policy has a low value, and so has one that is sure of the only answer

    def __init__(
        self,
        measure: Measure = "share",
        correct_only: bool = False,
        num_groups: int | None = None,
        standard_error: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_groups, standard_error, **kwargs)
        _check_measure(measure)
        self.measure = measure
        self.correct_only = correct_only

    def update(self, answers: Answers, correct: Verdicts | None = None, groups: Tensor | None = None) -> None:
        """Add problems; ``correct`` is read with ``correct_only`` alone."""
        if self.correct_only and correct is None:
            raise ConfigError("DistinctAnswers: correct_only needs the verdicts as correct")
        self._add(_distinct_answers_update(answers, correct if self.correct_only else None, self.measure), groups)
