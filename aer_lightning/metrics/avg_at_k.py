"""avg@k: the mean accuracy of k samples a problem."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from aer_lightning.algorithms.pass_at_k import check_counts, check_k
from aer_lightning.errors import ConfigError
from aer_lightning.metrics.problem_mean import ProblemMean, _problem_mean_compute, _problem_mean_update


def _avg_at_k_update(num_correct: Tensor, num_samples: Tensor, k: int | None) -> Tensor:
    """Accuracy c / n of every problem, [P] float64; ``k`` fixes n."""
    check_counts(num_correct, num_samples)
    if k is not None:
        check_k(k)
        if bool((num_samples != k).any()):
            raise ConfigError(f"avg@{k} needs exactly {k} samples of every problem, but one has {int(num_samples[num_samples != k][0])}")
    return num_correct.double() / num_samples.double()


def avg_at_k(num_correct: Tensor, num_samples: Tensor, k: int | None = None) -> Tensor:
    """Accuracy of each problem's samples, averaged over problems; the same number as pass@1.

    Args:
        num_correct: right answers of each problem, [P].
        num_samples: samples of each problem, [P].
        k: if set, every problem must have exactly ``k`` samples, so that the name avg@k says what was measured.

    Returns:
        Scalar in [0, 1], float32.

    Raises:
        ConfigError: a problem has another number of samples, or the counts are impossible.

    Example:
        >>> from torch import tensor
        >>> avg_at_k(tensor([0, 1, 4]), tensor([4, 4, 4]), k=4)
        tensor(0.4167)
    """
    return _problem_mean_compute(*_problem_mean_update(_avg_at_k_update(num_correct, num_samples, k), None, 1))[0][0]


class AvgAtK(ProblemMean):
    """Accuracy of each problem's samples, averaged over problems, as in :func:`avg_at_k`.

    ``update`` takes ``num_correct`` [P], ``num_samples`` [P] and, with ``num_groups``, ``groups`` [P].

    Args:
        k: if set, every problem must have exactly ``k`` samples.
        num_groups: if set, one result a group, [G].
        standard_error: if True, ``compute`` returns ``(mean, standard error over problems)``.
        kwargs: for :class:`torchmetrics.Metric`.

    Raises:
        ConfigError: a problem has another number of samples, or the counts are impossible.

    Example:
        >>> from torch import tensor
        >>> metric = AvgAtK(k=4, standard_error=True)
        >>> metric.update(tensor([0, 1, 4]), tensor([4, 4, 4]))
        >>> metric.compute()
        (tensor(0.4167), tensor(0.3005))
    """

    def __init__(self, k: int | None = None, num_groups: int | None = None, standard_error: bool = False, **kwargs: Any) -> None:
        super().__init__(num_groups, standard_error, **kwargs)
        if k is not None:
            check_k(k)
        self.k = k

    def update(self, num_correct: Tensor, num_samples: Tensor, groups: Tensor | None = None) -> None:
        """Add problems."""
        self._add(_avg_at_k_update(num_correct, num_samples, self.k), groups)
