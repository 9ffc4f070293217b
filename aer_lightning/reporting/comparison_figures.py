"""The pictures of a comparison: one line per method with its seeds' standard error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aer_lightning.reporting.counts import Problem, pass_at_ks, powers_of_two
from aer_lightning.reporting.run_metrics import RunMetrics, Series, smooth
from aer_lightning.reporting.runs import FinishedRun, Method
from aer_lightning.reporting.statistics import sources_of
from aer_lightning.reporting.style import INK, MARKERS, MUTED, PALETTE, grid, mark_level, png, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
        name: file name without its ending.
        title: heading.
        caption: what is seen and how to read it.
        data: PNG.
    """

    name: str
    title: str
    caption: str
    data: bytes


def draw_all(methods: Sequence[Method]) -> list[Picture]:
    """Every picture that the runs have data for."""
    pictures = [
        _training(methods, "entropy", "Policy entropy", "nat per token", "rollout/entropy", levels=True),
        _training(methods, "reward", "Reward", "mean reward of a rollout", "rollout/reward"),
    ]
    sources = sources_of(methods)
    for source in sources:
        suffix, title = (f"_{_file_name(source)}", f" · {source}") if len(sources) > 1 else ("", "")
        pictures += [
            _pass_against_k(methods, source, suffix, title),
            _frontier(methods, source, suffix, title),
            _pass_over_training(methods, source, suffix, title),
        ]
    pictures += [
        _training(methods, "alpha", "Entropy coefficient α", "α", "aer/alpha"),
        _training(methods, "response_length", "Response length", "tokens", "rollout/response_length"),
    ]
    return [p for p in pictures if p is not None]


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in text)


def colours(methods: Sequence[Method]) -> dict[str, str]:
    """One colour per method, the same in every picture."""
    return {m.name: PALETTE[i % len(PALETTE)] for i, m in enumerate(methods)}


def mean_and_error(rows: Sequence[Series]) -> tuple[Series, Series]:
    """Over seeds [S][R]: mean [R] and standard error [R], NaN where fewer than one or two seeds have a value."""
    values = np.array(rows, float)
    count = (~np.isnan(values)).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 0, np.nansum(values, 0) / count, np.nan)
        variance = np.nansum((values - mean) ** 2, 0) / (count - 1)
        return mean, np.where(count > 1, np.sqrt(variance / count), np.nan)


def _legend(figure: Figure, methods: Sequence[Method]) -> None:
    """Methods below the panels, with the number of seeds."""
    from matplotlib.lines import Line2D

    colour = colours(methods)
    handles = [
        Line2D([], [], color=colour[m.name], marker=MARKERS[i % len(MARKERS)], markersize=5, linewidth=2.2) for i, m in enumerate(methods)
    ]
    labels = [m.name if m.seeds == 1 else f"{m.name} ({m.seeds} seeds)" for m in methods]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(methods)), fontsize=9.5, labelcolor=INK)


def _training(methods: Sequence[Method], name: str, title: str, unit: str, column: str, *, levels: bool = False) -> Picture | None:
    """A logged column over rollouts."""
    if all(np.isnan(run.metrics.column(column)).all() for m in methods for run in m.runs):
        return None
    colour = colours(methods)
    with style():
        figure, (axes,) = grid(1, 1, width=8.6, height=4.2)
        _over_rollouts(axes, methods, column)
        axes.set(xlabel="rollout", ylabel=unit)
        caption = "Mean over seeds, moving average over a twentieth of the run; the band is the standard error over seeds."
        if levels:
            caption += _entropy_levels(axes, methods, colour)
        elif name == "alpha":
            axes.set_ylim(bottom=min(0.0, axes.dataLim.y0 * 1.1))
        _legend(figure, methods)
        return Picture(name, title, caption, png(figure))


def _over_rollouts(axes: Axes, methods: Sequence[Method], column: str) -> None:
    """One line per method with the band of its standard error."""
    colour = colours(methods)
    for number, method in enumerate(methods):
        runs = [r.metrics for r in method.runs if not np.isnan(r.metrics.column(column)).all()]
        if not runs:
            continue
        window = max(1, len(runs[0]) // 20)
        x, rows = _aligned(runs, column, window)
        mean, error = mean_and_error(rows)
        if len(runs) > 1:
            axes.fill_between(x, mean - error, mean + error, color=colour[method.name], alpha=0.18, linewidth=0)
        every = max(1, len(x) // 8)
        marks = {"marker": MARKERS[number % len(MARKERS)], "markersize": 5, "markevery": (every // 2, every)}
        axes.plot(x, mean, color=colour[method.name], **marks)  # type: ignore[arg-type]
    axes.set_xlim(left=0)


def draw_headline(methods: Sequence[Method], k: int = 32) -> Picture | None:
    """Entropy over training, and where each method ends in pass@1 and pass@k: a comparison in one picture.

    None without evaluations of at least k samples a problem; of several held-out sources the first is shown.
    """
    source = next(iter(sources_of(methods)), "")
    ends = {m.name: [pass_at_ks(_problems(run, source, ""), (1, k)) for run in m.runs] for m in methods}
    ends = {name: [row for row in rows if len(row) == 2] for name, rows in ends.items()}
    if not all(ends.values()) or not ends:
        return None
    colour = colours(methods)
    initial = next((run.counts[source].initial for m in methods for run in m.runs if run.counts[source].initial), [])
    with style():
        figure, (left, right) = grid(2, 2, width=5.2, height=4.4)
        _over_rollouts(left, methods, "rollout/entropy")
        left.set(xlabel="rollout", ylabel="nat per token", title="Policy entropy")
        _entropy_levels(left, methods, colour)
        for number, method in enumerate(methods):
            rows = [np.array([row[1], row[k]]) for row in ends[method.name]]
            (x, y), (dx, dy) = mean_and_error(rows)
            errors = {} if np.isnan(dx) else {"xerr": dx, "yerr": dy}
            right.errorbar(x, y, color=colour[method.name], marker=MARKERS[number % len(MARKERS)], markersize=8, linewidth=1.2, **errors)
        if initial:
            before = pass_at_ks(initial, (1, k))
            right.plot(before[1], before[k], color=MUTED, marker="o", markersize=8, markerfacecolor="white", linestyle="")
            right.annotate("initial", (before[1], before[k]), xytext=(8, 0), textcoords="offset points", va="center", color=MUTED)
        right.set(xlabel="pass@1", ylabel=f"pass@{k}", title="Held-out problems after training")
        _legend(figure, methods)
        caption = f"Mean over seeds with its standard error. Of two methods at the same pass@1, the upper one solves more within {k} tries."
        return Picture("headline", "Entropy, pass@1 and pass@k", caption, png(figure))


def _aligned(runs: Sequence[RunMetrics], column: str, window: int) -> tuple[Series, list[Series]]:
    """Smoothed values of every run over the rollouts that any of them has, [R] and [S][R]."""
    index = np.unique(np.concatenate([run.index for run in runs]))
    rows = []
    for run in runs:
        row = np.full(len(index), np.nan)
        row[np.searchsorted(index, run.index)] = smooth(run.column(column), window)
        rows.append(row)
    return index + 1, rows


def _entropy_levels(axes: Axes, methods: Sequence[Method], colour: dict[str, str]) -> str:
    """H_0 once, as the mean over all runs, and the target of every method that has one; returns what the caption says of them."""
    axes.set_ylim(bottom=0)
    anchors = [run.metrics.anchor for m in methods for run in m.runs]
    anchors = [a for a in anchors if a == a]
    text = ""
    if anchors:
        mark_level(axes, sum(anchors) / len(anchors), "$H_0$", dashes=":")
        text += " Dotted: H_0, the entropy of the initial policy."
    targets: dict[float, list[str]] = {}
    for method in methods:
        found = [run.metrics.target for run in method.runs if run.metrics.target == run.metrics.target]
        if found:
            targets.setdefault(round(sum(found) / len(found), 2), []).append(method.name)
    for target, names in targets.items():
        own = colour[names[0]] if len(targets) > 1 else MUTED
        axes.axhspan(0.85 * target, 1.15 * target, color=own, alpha=0.07, linewidth=0)
        mark_level(axes, target, "$H^*$" if len(targets) == 1 else f"$H^*$ of {', '.join(names)}", color=own)
    if targets:
        text += " Dashed: the target H*, shaded within 15 %."
    return text


def _problems(run: FinishedRun, source: str, label: str) -> list[Problem]:
    counts = run.counts.get(source)
    return [] if counts is None else [p for p in counts.problems if not label or p.label == label]


def _pass_against_k(methods: Sequence[Method], source: str, suffix: str, title: str) -> Picture | None:
    """pass@k against k after training, overall and by label."""
    counted = [run.counts[source] for m in methods for run in m.runs if source in run.counts]
    if not counted:
        return None
    labels = ["", *list(dict.fromkeys(label for c in counted for label in c.labels()))]
    ks = powers_of_two(min(p.n for c in counted for p in c.problems))
    initial = next((c.initial for c in counted if c.initial), [])
    colour = colours(methods)
    with style():
        figure, panels = grid(len(labels), 2 if len(labels) > 1 else 1, width=4.4 if len(labels) > 1 else 7, height=3.3)
        for axes, label in zip(panels, labels, strict=True):
            before = pass_at_ks([p for p in initial if not label or p.label == label], ks)
            axes.plot(list(before), list(before.values()), color=MUTED, linestyle=":", linewidth=1.5)
            for number, method in enumerate(methods):
                rows = [pass_at_ks(_problems(run, source, label), ks) for run in method.runs]
                _points(axes, [r for r in rows if r], colour[method.name], number)
            axes.set_xscale("log", base=2)
            axes.set_xticks(ks, [str(k) for k in ks])
            axes.minorticks_off()
            axes.set_title(label or "all problems")
            axes.set(xlabel="k", ylabel="pass@k")
        _legend(figure, methods)
        caption = (
            "Unbiased pass@k on the held-out problems after training, with the standard error over seeds. "
            "A policy that lost its diversity is flat: more tries find nothing new."
        )
        if initial:
            caption += " Dotted: the initial policy."
        return Picture(f"pass_at_k{suffix}", f"pass@k against k{title}", caption, png(figure))


def _points(axes: Axes, rows: Sequence[dict[int, float]], color: str, number: int) -> None:
    """Mean over seeds with error bars."""
    if not rows:
        return
    ks = sorted(rows[0])
    mean, error = mean_and_error([np.array([row.get(k, np.nan) for k in ks], float) for row in rows])
    axes.errorbar(
        ks, mean, None if np.isnan(error).all() else error, color=color, marker=MARKERS[number % len(MARKERS)], markersize=5, capsize=2
    )


def _evaluations(methods: Sequence[Method], source: str, name: str) -> dict[str, tuple[Series, Series, Series]]:
    """Rollouts, mean and standard error over seeds of a logged figure, by method."""
    found = {}
    for method in methods:
        series = [run.metrics.evaluated(source, name) for run in method.runs]
        series = [(x, y) for x, y in series if len(x)]
        if not series:
            continue
        grid_x = np.unique(np.concatenate([x for x, _ in series]))
        rows = [np.full(len(grid_x), np.nan) for _ in series]
        for row, (x, y) in zip(rows, series, strict=True):
            row[np.searchsorted(grid_x, x)] = y
        found[method.name] = (grid_x, *mean_and_error(rows))
    return found


def _logged_ks(methods: Sequence[Method], source: str) -> list[int]:
    ks = sorted({k for m in methods for run in m.runs for k in run.metrics.ks(source)})
    return [ks[0], ks[-1]] if len(ks) > 1 else ks


def _pass_over_training(methods: Sequence[Method], source: str, suffix: str, title: str) -> Picture | None:
    """The smallest and largest logged pass@k over training, overall and by label."""
    ks = _logged_ks(methods, source)
    if not ks:
        return None
    labels = ["", *sorted({label for m in methods for run in m.runs for label in run.metrics.labels(source)})]
    colour = colours(methods)
    with style():
        figure, panels = grid(len(labels) * len(ks), len(ks), width=4.4, height=2.7)
        for axes, (label, k) in zip(panels, ((label, k) for label in labels for k in ks), strict=True):
            found = _evaluations(methods, source, f"{label}/pass@{k}" if label else f"pass@{k}")
            for number, method in enumerate(methods):
                if method.name not in found:
                    continue
                x, mean, error = found[method.name]
                axes.plot(x, mean, color=colour[method.name], marker=MARKERS[number % len(MARKERS)], markersize=4)
                if not np.isnan(error).all():
                    axes.fill_between(x, mean - error, mean + error, color=colour[method.name], alpha=0.15, linewidth=0)
            axes.set_title(f"pass@{k}, {label or 'all problems'}")
            axes.set_xlabel("rollout")
        _legend(figure, methods)
        caption = "Held-out problems, evaluated between rollouts; 0 is the initial policy. The band is the standard error over seeds."
        return Picture(f"pass_over_training{suffix}", f"pass@k over training{title}", caption, png(figure))


def _frontier(methods: Sequence[Method], source: str, suffix: str, title: str) -> Picture | None:
    """The largest logged pass@k against pass@1, one path per method through training."""
    ks = _logged_ks(methods, source)
    if len(ks) < 2 or ks[0] != 1:
        return None
    colour = colours(methods)
    draw: Callable[[str], dict[str, tuple[Series, Series, Series]]] = lambda name: _evaluations(methods, source, name)  # noqa: E731
    first, largest = draw("pass@1"), draw(f"pass@{ks[-1]}")
    with style():
        figure, (axes,) = grid(1, 1, width=7, height=4.4)
        for number, method in enumerate(methods):
            if method.name not in first or method.name not in largest:
                continue
            x, y = first[method.name][1], largest[method.name][1]
            axes.plot(x, y, color=colour[method.name], linewidth=1.2, alpha=0.7)
            axes.plot(x[-1:], y[-1:], color=colour[method.name], marker=MARKERS[number % len(MARKERS)], markersize=9)
            axes.plot(x[:1], y[:1], color=MUTED, marker="o", markersize=6, markerfacecolor="white")
        axes.set(xlabel="pass@1", ylabel=f"pass@{ks[-1]}")
        _legend(figure, methods)
        caption = (
            f"Each path is a method's training, from its first evaluation (open circle) to its end (filled). Of two methods at the same "
            f"pass@1, the upper one solves more problems within {ks[-1]} tries."
        )
        return Picture(f"frontier{suffix}", f"pass@{ks[-1]} against pass@1{title}", caption, png(figure))
