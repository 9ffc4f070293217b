"""maj@k: the accuracy of the answer that most of k samples give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aer_lightning.algorithms.pass_at_k import check_k
from aer_lightning.errors import ConfigError
from aer_lightning.metrics.problem_mean import ProblemMean, _problem_mean_compute, _problem_mean_update

Answers = Sequence[Sequence[str | None]]  # [P][n]; None where no answer was found in a completion
Verdicts = Sequence[Sequence[bool]]  # [P][n]


def check_answers(answers: Answers, correct: Verdicts) -> None:
    """Refuse answers and verdicts that do not match, or a problem without samples.

    Raises:
        ConfigError: they do not match.
    """
    if len(answers) != len(correct) or any(len(a) != len(c) for a, c in zip(answers, correct, strict=False)):
        raise ConfigError("answers and correct must both have the shape [P][n]")
    if any(len(a) == 0 for a in answers):
        raise ConfigError("every problem must have at least one sample")


def _majority_vote(answers: Sequence[str | None], correct: Sequence[bool], merge_correct: bool) -> float:
    """Expected accuracy of one vote among samples of one problem, ties broken at random."""
    right = {answer for answer, verdict in zip(answers, correct, strict=True) if verdict}
    # Under merge_correct one candidate, the pair (), stands for all right answers; it can be no answer itself.
    votes: Counter[Any] = Counter(() if merge_correct and answer in right else answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [answer for answer, count in votes.items() if count == most]
    return sum(answer == () or answer in right for answer in winners) / len(winners)


def _maj_at_k_update(answers: Answers, correct: Verdicts, k: int, merge_correct: bool) -> Tensor:
    """maj@k of every problem, [P] float64: the mean over ``n // k`` disjoint votes of k samples each."""
    check_k(k)
    check_answers(answers, correct)
    values = []
    for row, verdicts in zip(answers, correct, strict=True):
        if k > len(row):
            raise ConfigError(f"maj@{k} needs at least {k} samples of every problem, but one has {len(row)}; draw more samples or lower k")
        starts = range(0, len(row) - k + 1, k)
        values.append(sum(_majority_vote(row[at : at + k], verdicts[at : at + k], merge_correct) for at in starts) / len(starts))
    return torch.tensor(values, dtype=torch.float64)


def maj_at_k(answers: Answers, correct: Verdicts, k: int, merge_correct: bool = False) -> Tensor:
    """Accuracy of the majority vote among k samples (self-consistency; Wang et al., 2022), averaged over problems.

    Answers are equal if their strings are: hand in a normal form. A completion without an answer (None) does not vote, and a vote
    in which nobody does is wrong. Where several answers have the most votes, the value is the share of them that is right,
    which is what breaking the tie at random gives on average. With more than k samples, the samples are cut in their order
    into as many votes of k as there is room for, and the votes are averaged; a rest is not used.

    Args:
        answers: extracted answers, [P][n].
        correct: verdict on each of them, [P][n]; an answer is right if any sample of the vote that gave it was found right.
        k: number of voters, at most a problem's samples.
        merge_correct: let all right answers vote as one, whatever their form (1/2 and 0.5). Wrong answers of different form cannot
            be merged so, which favours the right one a little; hence off by default.

    Returns:
        Scalar in [0, 1], float32.

    Raises:
        ConfigError: ``k`` is below 1 or above a problem's samples, or the arguments do not match.

    Example:
        >>> answers = [["7", "7", "8"], ["1/2", "0.5", "3"]]
        >>> correct = [[True, True, False], [True, True, False]]
        >>> maj_at_k(answers, correct, k=3)
        tensor(0.8333)
        >>> maj_at_k(answers, correct, k=3, merge_correct=True)
        tensor(1.)
    """
    return _problem_mean_compute(*_problem_mean_update(_maj_at_k_update(answers, correct, k, merge_correct), None, 1))[0][0]


class MajAtK(ProblemMean):
    """Accuracy of the majority vote among k samples, averaged over problems, as in :func:`maj_at_k`.

    ``update`` takes ``answers`` [P][n], ``correct`` [P][n] and, with ``num_groups``, ``groups`` [P].

    Args:
        k: number of voters, at most a problem's samples.
        merge_correct: let all right answers vote as one.
        num_groups: if set, one result a group, [G].
        standard_error: if True, ``compute`` returns ``(mean, standard error over problems)``.
        kwargs: for :class:`torchmetrics.Metric`.

    Raises:
        ConfigError: ``k`` is below 1 or above a problem's samples, or the arguments do not match.

    Example:
        >>> metric = MajAtK(k=3)
        >>> metric.update([["7", "7", "8"], ["1", None, "2"]], [[True, True, False], [False, False, True]])
        >>> metric.compute()
        tensor(0.7500)
    """

    def __init__(
        self, k: int, merge_correct: bool = False, num_groups: int | None = None, standard_error: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(num_groups, standard_error, **kwargs)
        check_k(k)
        self.k = k
        self.merge_correct = merge_correct

    def update(self, answers: Answers, correct: Verdicts, groups: Tensor | None = None) -> None:
        """Add problems."""
        self._add(_maj_at_k_update(answers, correct, self.k, self.merge_correct), groups)
