"""Mean over problems with its standard error: the sums that every metric of this folder keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from aer_lightning.errors import ConfigError


def _problem_mean_update(values: Tensor, groups: Tensor | None, num_groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of ``values`` [P] by group: total [G], total of squares [G] and number of problems [G], all float64.

    A NaN stands for a problem on which the metric is not defined; it is left out. ``groups`` [P] holds integers in
    ``[0, num_groups)``; None puts every problem into group 0.
    """
    values = values.detach().double()
    if groups is None:
        groups = torch.zeros(values.shape, dtype=torch.long, device=values.device)
    if groups.shape != values.shape:
        raise ConfigError(f"groups has shape {list(groups.shape)}, but there are {len(values)} problems")
    if groups.numel() and not 0 <= int(groups.min()) <= int(groups.max()) < num_groups:
        raise ConfigError(f"groups must lie in [0, {num_groups}), not in [{int(groups.min())}, {int(groups.max())}]")
    keep = ~values.isnan()
    values, groups = values[keep], groups.to(values.device)[keep]
    sums = torch.zeros(3, num_groups, dtype=torch.float64, device=values.device)
    for row, addend in zip(sums, (values, values.square(), torch.ones_like(values)), strict=True):
        row.index_add_(0, groups, addend)
    return sums[0], sums[1], sums[2]


def _problem_mean_compute(total: Tensor, total_square: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [G] and standard error of the mean [G], float32; NaN without problems, and without two of them."""
    mean = total / problems
    variance = ((total_square - total * mean) / (problems - 1)).clamp(min=0)  # NaN for a single problem: 0 / 0
    error = torch.where(problems > 1, (variance / problems).sqrt(), torch.nan)
    return mean.float(), error.float()


class ProblemMean(Metric):
    """Base of metrics that have one value a problem and report the mean over problems.

    Sums are kept in float64 and added over processes, so that the result does not depend on how problems were spread.

    Args:
        num_groups: if set, ``update`` takes ``groups`` [P] and ``compute`` returns one value a group, [G]; otherwise a scalar.
        standard_error: if True, ``compute`` returns ``(mean, standard error)``; the error is the sample standard deviation over
            problems (divisor P - 1) over the root of P, NaN for a single problem.
        kwargs: for :class:`torchmetrics.Metric`.

    Raises:
        ConfigError: ``num_groups`` is below 1.
    """

    is_differentiable = False
    higher_is_better: bool | None = True
    full_state_update = False

    total: Tensor
    total_square: Tensor
    problems: Tensor

    def __init__(self, num_groups: int | None = None, standard_error: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_groups is not None and num_groups < 1:
            raise ConfigError(f"num_groups must be >= 1 or None, not {num_groups}")
        self.num_groups = num_groups
        self.standard_error = standard_error
        for name in ("total", "total_square", "problems"):
            self.add_state(name, torch.zeros(num_groups or 1, dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, values: Tensor, groups: Tensor | None) -> None:
        """Add one value a problem, [P]."""
        if (groups is None) != (self.num_groups is None):
            raise ConfigError(f"{type(self).__name__}: groups go with num_groups, and only with it")
        sums = _problem_mean_update(values.to(self.total.device), groups, self.num_groups or 1)
        self.total += sums[0]
        self.total_square += sums[1]
        self.problems += sums[2]

    def compute(self) -> Any:
        """Mean over problems, with its standard error if asked for; scalars, or [G] with ``num_groups``."""
        mean, error = _problem_mean_compute(self.total, self.total_square, self.problems)
        if self.num_groups is None:
            mean, error = mean[0], error[0]
        return (mean, error) if self.standard_error else mean
