"""pass@k: the chance that at least one of k samples is right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aer_lightning.errors import ConfigError
from aer_lightning.metrics.problem_mean import ProblemMean, _problem_mean_compute, _problem_mean_update


def check_counts(num_correct: Tensor, num_samples: Tensor) -> None:
    """Refuse counts that cannot be: both must be [P], with ``0 <= num_correct <= num_samples`` and ``num_samples >= 1``.

    Raises:
        ConfigError: they are not.
    """
    if num_correct.ndim != 1 or num_correct.shape != num_samples.shape:
        raise ConfigError(
            f"num_correct and num_samples must both have the shape [P], not {list(num_correct.shape)} and {list(num_samples.shape)}"
        )
    if bool(((num_correct < 0) | (num_correct > num_samples) | (num_samples < 1)).any()):
        raise ConfigError("num_correct must lie in [0, num_samples], and num_samples must be at least 1")


def _check_k(k: int) -> None:
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ConfigError(f"k must be an integer >= 1, not {k!r}")


def _pass_at_k_update(num_correct: Tensor, num_samples: Tensor, k: int) -> Tensor:
    """Unbiased pass@k of every problem, [P] float64.

    1 - C(n-c, k) / C(n, k) = 1 - prod_{j<k} (1 - c / (n - j)), summed as logarithms: no binomial overflows, and a small
    result keeps its relative precision.
    """
    _check_k(k)
    check_counts(num_correct, num_samples)
    if num_samples.numel() and k > (fewest := int(num_samples.min())):
        raise ConfigError(f"pass@{k} needs at least {k} samples of every problem, but one has {fewest}; draw more samples or lower k")
    c, n = num_correct.double().unsqueeze(-1), num_samples.double().unsqueeze(-1)
    remaining = n - torch.arange(k, dtype=torch.float64, device=n.device)  # [P, k]
    log_all_wrong = torch.log1p(-(c / remaining).clamp(max=1)).sum(-1)  # -inf where fewer than k samples are wrong
    return -torch.expm1(log_all_wrong)


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
    values = _pass_at_k_update(num_correct, num_samples, k)
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
        _check_k(k)
        self.k = k

    def update(self, num_correct: Tensor, num_samples: Tensor, groups: Tensor | None = None) -> None:
        """Add problems."""
        self._add(_pass_at_k_update(num_correct, num_samples, self.k), groups)
