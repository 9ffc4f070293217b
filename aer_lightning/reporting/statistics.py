"""The figures by which runs are compared, one value per run, and their mean and standard error over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aer_lightning.reporting.counts import distinct_per_problem, pass_at_ks
from aer_lightning.reporting.run_metrics import RunMetrics
from aer_lightning.reporting.runs import FinishedRun, Method

BAND = 0.15  # of H*
TAIL = 0.1  # the part of a run that "last" is a mean over: one rollout's entropy moves with its mix of problems
PASS_KS = (1, 8, 16, 32)


# Student's t at 97.5 % by degrees of freedom
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds and its standard error: sample standard deviation (divisor S - 1) over the root of S; NaN for one seed."""

    mean: float
    error: float
    seeds: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean by Student's t; NaN for one seed.

        Beyond ten degrees of freedom t is z + (z^3 + z) / 4n + (5z^5 + 16z^3 + 3z) / 96n^2 (Abramowitz and Stegun 26.7.5), exact to .003.

        Example:
            >>> tuple(round(end, 3) for end in estimate([0.1, 0.2, 0.3]).interval)  # .2 ± 4.303 x .0577
            (-0.048, 0.448)
        """
        n, z = self.seeds - 1, 1.959964
        if n < 1:
            return math.nan, math.nan
        t = T_95[n - 1] if n <= len(T_95) else z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        return self.mean - t * self.error, self.mean + t * self.error


@dataclass(frozen=True)
class Figure:
    """A row of the comparison.

    Attributes:
        key: machine-readable name.
        title: of its column.
        meaning: one sentence.
        digits: after the decimal point.
        better: 1 where more is better, -1 where less, 0 where neither.
    """

    key: str
    title: str
    meaning: str
    digits: int = 3
    better: int = 0


TRAINING = (
    Figure("reward_area", "reward area", "area under the reward curve over the number of rollouts: mean reward of training", 3, 1),
    Figure("last_reward", "last reward", "mean reward of the last tenth of the rollouts", 3, 1),
    Figure("last_entropy", "last H / H_0", "mean entropy of the last tenth of the rollouts over that of the first rollout", 2),
    Figure("in_band", "H in band", "share of all rollouts with an entropy within 15 % of the run's own target H*", 2, 1),
    Figure("in_band_late", "H in band, late", "the same over the last half of the rollouts", 2, 1),
    Figure("tokens_per_second", "tokens/s", "tokens over the time of generating and grading them", 0),
)


def evaluation_figures(source: str, several: bool) -> tuple[Figure, ...]:
    """The rows for one held-out source."""
    prefix = f"{source} " if several else ""
    chance = "chance that {} right after training, held-out problems of " + source
    some = {k: "a sample is" if k == 1 else f"at least one of {k} samples is" for k in PASS_KS}
    passes = [Figure(f"{source}/pass@{k}", f"{prefix}pass@{k}", chance.format(some[k]), 3, 1) for k in PASS_KS]
    distinct = Figure(
        f"{source}/distinct_correct", f"{prefix}distinct right", f"different right answers per held-out problem of {source}", 2, 1
    )
    return (*passes, distinct)


def all_figures(methods: Sequence[Method]) -> list[Figure]:
    """Every row of the comparison, without those for which no run has a value."""
    sources = sources_of(methods)
    figures = [f for source in sources for f in evaluation_figures(source, len(sources) > 1)] + list(TRAINING)
    values = [run_figures(run) for method in methods for run in method.runs]
    return [f for f in figures if any(math.isfinite(v.get(f.key, math.nan)) for v in values)]


def sources_of(methods: Sequence[Method]) -> list[str]:
    """Held-out sources that any run has been evaluated on."""
    names = (name for m in methods for run in m.runs for name in [*run.metrics.sources(), *run.counts])
    return list(dict.fromkeys(names))


def run_figures(run: FinishedRun) -> dict[str, float]:
    """Every figure of one run; NaN where it has none."""
    return training_figures(run.metrics) | {k: v for s in sources_of([Method("", [run])]) for k, v in _evaluated(run, s).items()}


def training_figures(run: RunMetrics) -> dict[str, float]:
    """Figures that follow from the rollouts alone."""
    entropy = run.column("rollout/entropy")
    tail = max(1, round(TAIL * len(run)))
    spent = run.column("rollout/generate_seconds")
    tokens = run.column("rollout/generate_tokens_per_second") * spent
    known = ~np.isnan(tokens) & (spent > 0)
    return {
        "reward_area": area(run.column("rollout/reward")),
        "last_reward": _mean(run.column("rollout/reward")[-tail:]),
        "last_entropy": _mean(entropy[-tail:]) / run.anchor if run.anchor > 0 else math.nan,
        "in_band": in_band(entropy, run.target),
        "in_band_late": in_band(entropy[len(run) // 2 :], run.target),
        "tokens_per_second": float(tokens[known].sum() / spent[known].sum()) if known.any() else math.nan,
    }


def area(values: np.ndarray) -> float:
    """Area under a curve of R equally spaced points (trapezoids) over its length R - 1, ignoring points that are NaN."""
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan
    return float(np.trapezoid(values) / (len(values) - 1)) if len(values) > 1 else float(values[0])


def in_band(entropy: np.ndarray, target: float, band: float = BAND) -> float:
    """Share of values within ``band`` times the target; NaN without a target."""
    entropy = entropy[~np.isnan(entropy)]
    if math.isnan(target) or not len(entropy):
        return math.nan
    return float((np.abs(entropy - target) <= band * target).mean())


def _evaluated(run: FinishedRun, source: str) -> dict[str, float]:
    """From per-problem counts where they were written, else from the last evaluation in ``metrics.csv``."""
    logged = next((e.sources[source] for e in reversed(run.metrics.evaluations) if source in e.sources), {})
    values = {f"{source}/pass@{k}": logged.get(f"pass@{k}", math.nan) for k in PASS_KS}
    values[f"{source}/distinct_correct"] = math.nan
    if source in run.counts:
        problems = run.counts[source].problems
        values |= {f"{source}/pass@{k}": v for k, v in pass_at_ks(problems, PASS_KS).items()}
        values[f"{source}/distinct_correct"] = distinct_per_problem(problems)
    return values


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error of one figure over seeds; seeds without a value are left out."""
    known = [v for v in values if math.isfinite(v)]
    if not known:
        return Estimate(math.nan, math.nan, 0)
    mean = sum(known) / len(known)
    if len(known) < 2:
        return Estimate(mean, math.nan, 1)
    variance = sum((v - mean) ** 2 for v in known) / (len(known) - 1)
    return Estimate(mean, math.sqrt(variance / len(known)), len(known))


def compare_methods(methods: Sequence[Method]) -> dict[str, dict[str, Estimate]]:
    """Estimate by name of the method and key of the figure."""
    keys = [f.key for f in all_figures(methods)]
    table = {}
    for method in methods:
        values = [run_figures(run) for run in method.runs]
        table[method.name] = {key: estimate([v.get(key, math.nan) for v in values]) for key in keys}
    return table


def best(table: dict[str, dict[str, Estimate]], figure: Figure) -> set[str]:
    """Methods whose mean is the best, as far as the figure has a better side."""
    means = {name: row[figure.key].mean for name, row in table.items() if math.isfinite(row[figure.key].mean)}
    if not figure.better or len(means) < 2:
        return set()
    top = max(means.values(), key=lambda v: figure.better * v)
    return {name for name, mean in means.items() if mean == top}


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan
