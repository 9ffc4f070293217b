"""pass@k: the chance that at least one of k samples is right."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from aer_lightning.algorithms.pass_at_k import check_k, pass_at_k_per_problem
from aer_lightning.metrics.problem_mean import ProblemMean, _problem_mean_compute, _problem_mean_update


def pass_at_k(num_correct: Tensor, num_samples: Tensor, k: int) -> Tensor:
    """Unbiased estimate of pass@k, averaged over problems.

    1 - C(n-c, k) / C(n, k) for c right answers among n samples; Chen et al., "Evaluating Large Language Models Trained on
    Code", 2021, section 2.1.

    Args:
        num_correct: right answers of each problem, [P].
        num_samples: samples of each problem, [P]; at least ``k``.
        k: number of tries.

    Returns:
        Scalar in [0, 1], float32.

    Raises:
        ConfigError: ``k`` is below 1 or above a problem's samples, or the counts are impossible.

    Example:
        >>> from torch import tensor
        >>> pass_at_k(tensor([0, 1, 4]), tensor([4, 4, 4]), k=2)
        tensor(0.5000)
    """
    values = pass_at_k_per_problem(num_correct, num_samples, k)
    return _problem_mean_compute(*_problem_mean_update(values, None, 1))[0][0]


class PassAtK(ProblemMean):
    """Unbiased estimate of pass@k, averaged over problems, as in :func:`pass_at_k`.

    ``update`` takes ``num_correct`` [P], ``num_samples`` [P] and, with ``num_groups``, ``groups`` [P].

    Args:
        k: number of tries; never more than a problem's samples.
        num_groups: if set, one result a group, [G].
        standard_error: if True, ``compute`` returns ``(mean, standard error over problems)``.
        kwargs: for :class:`torchmetrics.Metric`.

    Raises:
        ConfigError: ``k`` is below 1 or above a problem's samples, or the counts are impossible.

    Example:
        >>> from torch import tensor
        >>> metric = PassAtK(k=2, num_groups=2)
        >>> metric.update(tensor([0, 1, 4]), tensor([4, 4, 4]), groups=tensor([0, 0, 1]))
        >>> metric.compute()
        tensor([0.2500, 1.0000])
    """

    def __init__(self, k: int, num_groups: int | None = None, standard_error: bool = False, **kwargs: Any) -> None:
        super().__init__(num_groups, standard_error, **kwargs)
        check_k(k)
        self.k = k

    def update(self, num_correct: Tensor, num_samples: Tensor, groups: Tensor | None = None) -> None:
        """Add problems."""
        self._add(pass_at_k_per_problem(num_correct, num_samples, self.k), groups)
