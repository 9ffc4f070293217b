"""The curves of one run: reward, entropy with H_0 and H*, alpha, response length, pass@k over training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aer_lightning.reporting.run_metrics import RunMetrics, smooth
from aer_lightning.reporting.style import INK, MUTED, PALETTE, empty, grid, legend_below, mark_level, png, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACCENT, SECOND = PALETTE[0], PALETTE[1]


def draw_curves(run: RunMetrics, title: str) -> bytes:
    """A PNG with one panel for each of reward, entropy, alpha, response length, and pass@k of each source (overall, by label).

    Args:
        run: what was logged so far; missing metrics leave their panel with a note.
        title: written above.
    """
    sources = run.sources()
    labelled = [source for source in sources if run.labels(source)]
    with style():
        figure, axes = grid(4 + max(1, len(sources)) + len(labelled), columns=3)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
        panels = iter(axes)
        _reward(next(panels), run)
        _entropy(next(panels), run)
        _alpha(next(panels), run)
        _length(next(panels), run)
        if not sources:
            empty(_titled(next(panels), "pass@k"), "no evaluation yet")
        for source in sources:
            _overall(next(panels), run, source, named=len(sources) > 1)
        for source in labelled:
            _by_label(next(panels), run, source, named=len(sources) > 1)
        for a in axes:
            if a.lines and not a.get_xlabel():
                a.set_xlabel("rollout")
                a.set_xlim(left=0)
        return png(figure)


def _titled(axes: Axes, title: str, unit: str = "") -> Axes:
    axes.set_title(title)
    if unit:
        axes.set_ylabel(unit)
    return axes


def _window(run: RunMetrics) -> int:
    return max(1, len(run) // 25)


def _noisy(axes: Axes, run: RunMetrics, name: str, color: str, label: str | None = None) -> bool:
    """Every rollout faintly and the moving average on top; False if nothing was logged."""
    values = run.column(name)
    if np.isnan(values).all():
        empty(axes, "not logged")
        return False
    x = run.index + 1
    if len(run) >= 50:
        axes.plot(x, values, color=color, alpha=0.25, linewidth=0.9)
        axes.plot(x, smooth(values, _window(run)), color=color, label=label)
    else:
        axes.plot(x, values, color=color, label=label, marker="o" if len(run) < 10 else None, markersize=3)
    return True


def _reward(axes: Axes, run: RunMetrics) -> None:
    _titled(axes, "Reward", "mean over the rollout")
    reward, correct = run.column("rollout/reward"), run.column("rollout/correct")
    apart = not np.isnan(correct).all() and not np.allclose(reward, correct, equal_nan=True)
    _noisy(axes, run, "rollout/reward", ACCENT, "reward" if apart else None)
    if apart:  # partial or several rewards: what is correct is another number
        _noisy(axes, run, "rollout/correct", SECOND, "share correct")
        axes.legend()


def _entropy(axes: Axes, run: RunMetrics) -> None:
    _titled(axes, "Policy entropy", "nat per token")
    if not _noisy(axes, run, "rollout/entropy", ACCENT):
        return
    anchor, target = run.anchor, run.target
    mark_level(axes, anchor, "$H_0$", dashes=":")
    if not np.isnan(target):
        axes.axhspan(0.85 * target, 1.15 * target, color=SECOND, alpha=0.10, linewidth=0)
        mark_level(axes, target, "$H^*$", color=SECOND)
        _titled(axes, "Policy entropy (shaded: H* ± 15 %)", "nat per token")
    axes.set_ylim(bottom=0)
    axes.margins(y=0.12)


def _alpha(axes: Axes, run: RunMetrics) -> None:
    if run.feedback is not None:
        name = run.feedback.removeprefix("feedback/")
        _titled(axes, f"What steers the loss: {name}")
        _noisy(axes, run, run.feedback, ACCENT)
        return
    _titled(axes, r"Coefficient $\alpha$")
    if not _noisy(axes, run, "aer/alpha", ACCENT, r"$\alpha$"):
        return
    share = run.column("aer/active_tokens")
    if not np.isnan(share).all():
        twin = axes.twinx()
        twin.plot(run.index + 1, smooth(share, _window(run)), color=MUTED, linewidth=1.1, linestyle="--", label="tokens with λ ≠ 0 (right)")
        twin.set(ylim=(0, 1.02))
        twin.grid(False)
        twin.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        legend_below(axes, [*axes.get_lines()[-1:], *twin.get_lines()])
    axes.set_ylim(bottom=min(0.0, float(np.nanmin(run.column("aer/alpha"))) * 1.1))


def _length(axes: Axes, run: RunMetrics) -> None:
    _titled(axes, "Response length", "tokens")
    _noisy(axes, run, "rollout/response_length", ACCENT)


def _overall(axes: Axes, run: RunMetrics, source: str, *, named: bool) -> None:
    _titled(axes, f"pass@k · {source}" if named else "pass@k, held-out problems")
    for k, color in zip(run.ks(source), PALETTE, strict=False):
        x, y = run.evaluated(source, f"pass@{k}")
        errors = run.evaluated(source, f"pass@{k}_se")[1]
        axes.plot(x, y, color=color, marker="o", markersize=4, label=f"pass@{k}")
        if len(errors) == len(y):
            axes.fill_between(x, y - errors, y + errors, color=color, alpha=0.12, linewidth=0)
    if axes.lines:
        legend_below(axes, columns=4)
    else:
        empty(axes, "no pass@k logged")


def _by_label(axes: Axes, run: RunMetrics, source: str, *, named: bool) -> None:
    """First and last k for every label: the colour is the label's, the line style the k's."""
    ks = run.ks(source)
    shown = [ks[0], ks[-1]] if len(ks) > 1 else ks
    _titled(axes, f"pass@k by label · {source}" if named else "pass@k by label")
    for label, color in zip(run.labels(source), PALETTE, strict=False):
        for k, line in zip(shown, ("-", "--"), strict=False):
            x, y = run.evaluated(source, f"{label}/pass@{k}")
            axes.plot(x, y, color=color, linestyle=line, marker="o", markersize=3.5, label=label if k == shown[0] else None)
    for k, line in zip(shown, ("-", "--"), strict=False) if len(shown) > 1 else ():
        axes.plot([], [], color=MUTED, linestyle=line, label=f"pass@{k}")
    legend_below(axes)
    axes.set_ylim(0, 1.02)
