"""``python -m aer_lightning compare RUN_DIR...``: a table of finished runs, and a report with pictures."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aer_lightning.errors import ConfigError, UserError
from aer_lightning.reporting.page import format_value, render_page
from aer_lightning.reporting.runs import Method, group_runs, read_run
from aer_lightning.reporting.statistics import Estimate, Figure, all_figures, best, compare_methods

EPILOG = (
    "Runs of the same name are seeds of one method. The name is that of the run's config.yaml; NAME=RUN_DIR gives another. "
    "Runs on different tasks or budgets are refused."
)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m aer_lightning compare", description="Compare finished runs: a table, report.html and PNGs.", epilog=EPILOG
    )
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="folder of a finished run, or NAME=FOLDER")
    parser.add_argument(
        "--out", default="comparison", metavar="DIR", help="where report.html, table.csv and the pictures go (default: comparison)"
    )
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the command; returns the exit status: 0, or 2 for what the user can mend, said in one line."""
    try:
        options = parse(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        methods = group_runs([read_run(folder) for folder in options.runs])
        out = Path(options.out)
        if out.exists() and not out.is_dir():
            raise ConfigError(f"--out: {out} is a file; give a folder")
        write_report(methods, out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write_report(methods: Sequence[Method], out: Path, findings: Sequence[tuple[str, str]] = ()) -> None:
    """Print the table and write ``report.html``, ``table.csv`` and a PNG per picture into ``out``.

    Args:
        methods: what is compared.
        out: folder.
        findings: questions and answers for the top of the page.
    """
    from aer_lightning.reporting.comparison_figures import draw_all

    figures, table, notes = all_figures(methods), compare_methods(methods), caveats(methods)
    print_table(methods, figures, table, notes)
    out.mkdir(parents=True, exist_ok=True)
    pictures = draw_all(methods)
    for picture in pictures:
        (out / f"{picture.name}.png").write_bytes(picture.data)
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "figure", "mean", "standard_error", "seeds"])
        writer.writerows([name, key, e.mean, e.error, e.seeds] for name, row in table.items() for key, e in row.items())
    (out / "report.html").write_text(render_page(methods, figures, table, pictures, notes, findings), encoding="utf-8")
    print(f"report: {out / 'report.html'}")


def caveats(methods: Sequence[Method]) -> list[str]:
    """What a reader has to know before comparing."""
    notes = []
    for method in methods:
        tries = [t for run in method.runs for t in run.metrics.column("rollout/sampling_tries") if not np.isnan(t)]
        if tries and (mean := sum(tries) / len(tries)) > 1:
            notes.append(f"{method.name} draws prompts until its groups are mixed: {mean:.2f} times the completions of a plain rollout.")
    if single := [m.name for m in methods if m.seeds == 1]:
        notes.append(f"One seed alone, so no standard error: {', '.join(single)}.")
    missing = [str(run.folder) for m in methods for run in m.runs if not run.counts]
    if missing:
        notes.append(f"No evaluation.jsonl, so only the pass@k that were logged: {', '.join(missing)}.")
    return notes


def print_table(methods: Sequence[Method], figures: Sequence[Figure], table: dict[str, dict[str, Estimate]], notes: Sequence[str]) -> None:
    """One row per method; the highest mean of a column in bold."""
    from rich.console import Console
    from rich.table import Table

    console: Any = Console()
    if not console.is_terminal:
        console = Console(width=240)  # a file or a pipe has no edge to fold cells at
    shown = Table(header_style="bold")
    shown.add_column("method")
    shown.add_column("seeds", justify="right")
    for figure in figures:
        shown.add_column(figure.title, justify="right")
    winners = {f.key: best(table, f) for f in figures}
    for method in methods:
        cells = []
        for figure in figures:
            text = " ".join(part for part in format_value(table[method.name][figure.key], figure) if part)
            cells.append(f"[bold]{text}[/bold]" if method.name in winners[figure.key] else text)
        shown.add_row(method.name, str(method.seeds), *cells)
    console.print(shown)
    for note in notes:
        console.print(note, highlight=False)
