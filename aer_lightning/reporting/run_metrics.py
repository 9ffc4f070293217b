"""A run's ``metrics.csv`` as arrays over rollouts and a list of evaluations."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aer_lightning.errors import DataError

METRICS_FILE = "metrics.csv"
INDEX = "rollout/index"
PREFIX = "val/"
Series = NDArray[np.float64]


@dataclass
class Evaluation:
    """One evaluation of a run.

    Attributes:
        rollouts: rollouts trained on before it; 0 is the initial policy.
        sources: figure by name (``pass@8``, ``2 numbers/pass@8``, ``reward``) for each held-out source.
    """

    rollouts: int
    sources: dict[str, dict[str, float]]


@dataclass
class RunMetrics:
    """What a run logged.

    Attributes:
        index: [R] index of each rollout, ascending.
        columns: [R] values of every metric of rollouts by its name, NaN where it was not logged.
        evaluations: in the order of training.
    """

    index: Series
    columns: dict[str, Series] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.index)

    def column(self, name: str) -> Series:
        """[R] values of a metric, all NaN if it was never logged."""
        return self.columns.get(name, np.full(len(self), np.nan))

    def last(self, name: str) -> float:
        """The last logged value of a metric, NaN if there is none."""
        values = self.column(name)
        values = values[~np.isnan(values)]
        return float(values[-1]) if len(values) else float("nan")

    @property
    def anchor(self) -> float:
        """H_0 in nat: as the anchor logged it, else the entropy of the first rollout, if that one is here."""
        anchor = self.last("aer/anchor_entropy")
        if np.isnan(anchor) and len(self) and self.index[0] == 0:
            return float(self.column("rollout/entropy")[0])
        return anchor

    @property
    def target(self) -> float:
        """H* in nat, NaN for a run without a target."""
        return self.last("aer/target_entropy")

    @property
    def feedback(self) -> str | None:
        """Column of the number by which a rival steers the loss (``feedback/zeta``); None if none does."""
        return next((name for name in self.columns if name.startswith("feedback/") and name != "feedback/at_limit"), None)

    def sources(self) -> list[str]:
        """Held-out sources in the order of their first evaluation."""
        return list(dict.fromkeys(name for evaluation in self.evaluations for name in evaluation.sources))

    def labels(self, source: str) -> list[str]:
        """Labels of a source that figures are split by."""
        names = (name for e in self.evaluations for name in e.sources.get(source, {}) if "/" in name)
        return list(dict.fromkeys(name.rsplit("/", 1)[0] for name in names))

    def ks(self, source: str) -> list[int]:
        """The k for which pass@k was logged, ascending."""
        names = {name for e in self.evaluations for name in e.sources.get(source, {})}
        return sorted(int(name[5:]) for name in names if name.startswith("pass@") and name[5:].isdigit())

    def evaluated(self, source: str, name: str) -> tuple[Series, Series]:
        """Rollouts [E] and values [E] of a figure over the evaluations that have it."""
        points = [(e.rollouts, e.sources[source][name]) for e in self.evaluations if name in e.sources.get(source, {})]
        return np.array([p[0] for p in points], float), np.array([p[1] for p in points], float)


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a ``metrics.csv``, without the empty cells.

    Raises:
        DataError: the file cannot be read, or a cell is no number; names file and line.
    """
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = []
            for row in reader:
                try:
                    rows.append({k: float(v) for k, v in row.items() if k is not None and v not in ("", None)})
                except (TypeError, ValueError):
                    bad = next((k for k, v in row.items() if not _is_number(v)), "?")
                    raise DataError(f"{path}:{reader.line_num}: {bad!r} is no number; the file was not written by a run") from None
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def _is_number(text: object) -> bool:
    try:
        float(text) if text not in ("", None) else None  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def read_metrics(folder: Path | str) -> RunMetrics:
    """Read the metrics of a run folder.

    With several optimizer steps per rollout the logger repeats a rollout's values at the steps that follow; the first row counts.

    Raises:
        DataError: there is no ``metrics.csv``, or it is malformed.
    """
    path = Path(folder) / METRICS_FILE
    if not path.is_file():
        raise DataError(f"{folder}: no {METRICS_FILE}; give the folder of a run that the CSV logger wrote to")
    return collect_rows(read_rows(path))


def collect_rows(rows: list[dict[str, float]]) -> RunMetrics:
    """Rollouts and evaluations from rows in the order in which they were logged."""
    rollouts: dict[int, dict[str, float]] = {}
    evaluations: list[Evaluation] = []
    done = 0
    for row in rows:
        if INDEX in row:
            index = int(row[INDEX])
            rollouts.setdefault(index, {k: v for k, v in row.items() if not k.startswith(PREFIX)})
            done = index + 1
        if values := {k: v for k, v in row.items() if k.startswith(PREFIX)}:
            evaluations.append(Evaluation(done, split_sources(values)))
    order = sorted(rollouts)
    names = dict.fromkeys(k for i in order for k in rollouts[i])
    columns = {name: np.array([rollouts[i].get(name, np.nan) for i in order], float) for name in names}
    return RunMetrics(np.array(order, float), columns, evaluations)


def split_sources(values: dict[str, float]) -> dict[str, dict[str, float]]:
    """``val/<source>/[<label>/]<figure>`` to source and figure; a source is a path that no other one is the beginning of."""
    parts = {key: key.removeprefix(PREFIX).rsplit("/", 1) for key in values if "/" in key.removeprefix(PREFIX)}
    paths = dict.fromkeys(path for path, _ in parts.values())
    sources = [p for p in paths if not any(p.startswith(other + "/") for other in paths)]
    split: dict[str, dict[str, float]] = {source: {} for source in sources}
    for key, (path, figure) in parts.items():
        source = next(s for s in sources if path == s or path.startswith(s + "/"))
        label = path[len(source) + 1 :]
        split[source][f"{label}/{figure}" if label else figure] = values[key]
    return split


def smooth(values: Series, window: int) -> Series:
    """Centred moving average that ignores NaN and shortens at the ends, [R] to [R]."""
    if window < 2 or len(values) < 3:
        return values
    weights = np.ones(min(window, len(values)))
    known = ~np.isnan(values)
    sums = np.convolve(np.where(known, values, 0.0), weights, mode="same")
    counts = np.convolve(known.astype(float), weights, mode="same")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, sums / counts, np.nan)
