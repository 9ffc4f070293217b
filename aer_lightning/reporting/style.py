"""One look for all pictures: matplotlib's object interface on the Agg canvas, so that no global state and no display is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
# Distinct for colour-blind readers, after Okabe and Ito; the first stands out most.
PALETTE = ("#0b6e99", "#d1495b", "#edae49", "#3c8d5a", "#7d5ba6", "#5f6c7b", "#e07a3f", "#3aa6a6", "#a23b72", "#8a6d3b")
MARKERS = "osD^vPXh<>"
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#cbd2d9",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save inside of this."""
    import matplotlib

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        yield


def grid(panels: int, columns: int, width: float = 4.4, height: float = 3.1) -> tuple[Figure, list[Axes]]:
    """A figure with so many axes in rows of at most ``columns``; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]
    return figure, axes


def png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as a PNG file's bytes; without a date, so that equal data gives equal bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step, so that who looks at it during a run never sees half of it."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def mark_level(axes: Axes, value: float, text: str, *, color: str = MUTED, dashes: str = "--") -> None:
    """A horizontal line with its name to the right of the axes, where no curve runs through it; nothing for NaN."""
    if value != value:
        return
    axes.axhline(value, color=color, linestyle=dashes, linewidth=1.1, zorder=1)
    axes.annotate(
        text,
        (1.0, value),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        ha="left",
        va="center",
        fontsize=9,
        color=color,
    )


def legend_below(axes: Axes, handles: list[Any] | None = None, columns: int = 3) -> None:
    """The legend under the axes, where it hides nothing."""
    handles = axes.get_legend_handles_labels()[0] if handles is None else handles
    labels = [str(h.get_label()) for h in handles]
    axes.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=columns, handlelength=1.8, columnspacing=1.2)


def empty(axes: Axes, text: str) -> None:
    """Say why a panel shows nothing."""
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
