"""How well a run holds its target entropy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aer_lightning.errors import DataError
from aer_lightning.reporting.run_metrics import RunMetrics, Series

WINDOW = 10
BAND = 0.15


@dataclass(frozen=True)
class Tracking:
    """Figures of one run. All but ``at_limit`` and ``alpha`` are of M / H* - 1, M the mean entropy of the last ten rollouts.

    Attributes:
        rms: root mean square over the last half of the run.
        entry: rollouts before M is within 15 % of the target for the first time, NaN if it never is.
        swing: largest absolute value from there on, NaN if it never enters.
        at_limit: share of the last half in which alpha sits at one of its limits.
        alpha: mean over the last half.
    """

    rms: float
    entry: float
    swing: float
    at_limit: float
    alpha: float


def moving_mean(values: Series, window: int = WINDOW) -> Series:
    """[R] mean of the value and the up to ``window`` - 1 before it.

    Example:
        >>> moving_mean(np.array([1.0, 3.0, 5.0, 7.0]), window=2).tolist()
        [1.0, 2.0, 4.0, 6.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def track(run: RunMetrics) -> Tracking:
    """Judge a run with a target.

    Raises:
        DataError: the run has no target, or fewer than two rollouts.
    """
    if np.isnan(run.target) or len(run) < 2:
        raise DataError("no aer/target_entropy over two rollouts or more: only a run with EntropyAnchor has a target to hold")
    error = moving_mean(run.column("rollout/entropy")) / run.target - 1
    late = slice(len(run) // 2, None)
    inside = np.flatnonzero(np.abs(error) <= BAND)
    limit, alpha = run.column("aer/at_limit")[late], run.column("aer/alpha")[late]
    return Tracking(
        rms=float(np.sqrt(np.mean(error[late] ** 2))),
        entry=float(inside[0]) if len(inside) else float("nan"),
        swing=float(np.abs(error[inside[0] :]).max()) if len(inside) else float("nan"),
        at_limit=float(np.mean(limit != 0)),
        alpha=float(np.mean(alpha)),
    )
