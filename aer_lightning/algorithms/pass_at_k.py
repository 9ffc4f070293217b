"""Counting of pass@k: the chance that at least one of k samples is right, problem by problem."""

from __future__ import annotations

import torch
from torch import Tensor

from aer_lightning.errors import ConfigError


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


def check_k(k: int) -> None:
    """Refuse a number of tries that is not an integer of at least 1.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ConfigError(f"k must be an integer >= 1, not {k!r}")


def pass_at_k_per_problem(num_correct: Tensor, num_samples: Tensor, k: int) -> Tensor:
    """Unbiased pass@k of every problem, [P] float64.

    1 - C(n-c, k) / C(n, k) = 1 - prod_{j<k} (1 - c / (n - j)), summed as logarithms: no binomial overflows, and a small
    result keeps its relative precision.
    """
    check_k(k)
    check_counts(num_correct, num_samples)
    if num_samples.numel() and k > (fewest := int(num_samples.min())):
        raise ConfigError(f"pass@{k} needs at least {k} samples of every problem, but one has {fewest}; draw more samples or lower k")
    c, n = num_correct.double().unsqueeze(-1), num_samples.double().unsqueeze(-1)
    remaining = n - torch.arange(k, dtype=torch.float64, device=n.device)  # [P, k]
    log_all_wrong = torch.log1p(-(c / remaining).clamp(max=1)).sum(-1)  # -inf where fewer than k samples are wrong
    return -torch.expm1(log_all_wrong)
