"""An evaluation as one table: benchmarks side by side, standard errors over problems, and above it what it was measured with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

OUTCOMES = ("correct", "wrong", "unparsed", "timeout", "error", "bad_gold")
ROWS = {"distinct": "distinct answers", "distinct_correct": "distinct right answers", "response_length": "tokens", "truncated": "truncated"}


@dataclass(frozen=True)
class SourceResult:
    """What was measured on one benchmark.

    Attributes:
        problems: number of problems.
        figures: figure by name, ``<name>_se`` its standard error over problems, ``<label>/<figure>`` that of some of the problems.
        bad_gold: reasons by id of the problems that were left out because their gold answer cannot be graded against.
        too_long: ids of those left out because their prompt is too long.
    """

    problems: int
    figures: dict[str, float]
    bad_gold: dict[str, str] = field(default_factory=dict)
    too_long: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation.

    Attributes:
        model: folder or name.
        checkpoint: weights loaded over the model's, None for its own.
        samples: n, samples a problem.
        temperature, top_p, max_new_tokens: of sampling.
        seed: of the samples.
        sources: result of each benchmark by its name.
    """

    model: str
    checkpoint: str | None
    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    sources: dict[str, SourceResult]

    def header(self) -> list[str]:
        """Lines above the table: model, sampling, and whether all gold answers parse."""
        sampled = "greedy" if self.temperature == 0 else f"temperature {self.temperature:g}, top_p {self.top_p:g}"
        lines = [
            f"model {self.model}" + (f", checkpoint {self.checkpoint}" if self.checkpoint else ""),
            f"n = {self.samples} samples a problem, {sampled}, at most {self.max_new_tokens} new tokens, seed {self.seed}",
        ]
        sound = [name for name, source in self.sources.items() if not source.bad_gold]
        if sound:
            lines.append(f"gold answers all parse: {', '.join(sound)}")
        for name, source in self.sources.items():
            whole = source.problems + len(source.bad_gold) + len(source.too_long)
            if source.bad_gold:
                lines.append(
                    f"GOLD ANSWERS DO NOT ALL PARSE in {name}: {len(source.bad_gold)} of {whole} left out ({_some(source.bad_gold)})"
                )
            if source.too_long:
                lines.append(f"prompts too long in {name}: {len(source.too_long)} of {whole} left out ({_some(source.too_long)})")
        return lines

    def lines(self) -> list[str]:
        """The header and the table, as aligned Markdown."""
        names = list(self.sources)
        mean = len(names) > 1
        rows = [["", *names, *(["mean"] if mean else [])], ["problems", *(str(s.problems) for s in self.sources.values())]]
        for figure in self._order():
            cells = [_cell(source.figures, figure) for source in self.sources.values()]
            rows.append([self._title(figure), *cells])
            if mean and figure.startswith(("pass@", "maj@")):
                rows[-1].append(_mean([source.figures for source in self.sources.values()], figure))
        rows = [row + [""] * (len(rows[0]) - len(row)) for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        foot = "± is the standard error over problems" + ("; mean is that of the benchmarks, each with the same weight" if mean else "")
        # Two spaces at the end of a line keep it apart from the next one in Markdown.
        return [line + "  " for line in self.header()] + ["", table[0], rule, *table[1:], "", foot]

    def _order(self) -> list[str]:
        """Figures in the order of the table: all problems first, then label by label; what no benchmark has is left out."""
        known = {name for source in self.sources.values() for name in source.figures}
        votes = sorted((n for n in known if n.startswith(("pass@", "maj@")) and not n.endswith("_se")), key=_by_k)
        split = sorted({n.rsplit("/", 1)[0] for n in known if "/" in n})
        labelled = [
            n for label in split for n in sorted((n for n in known if n.startswith(f"{label}/pass@") and not n.endswith("_se")), key=_by_k)
        ]
        return [*votes, *(n for n in (*ROWS, *OUTCOMES) if n in known), *labelled]

    def _title(self, figure: str) -> str:
        label, _, name = figure.rpartition("/")
        if name == "pass@1":
            name = f"pass@1 (avg@{self.samples})"
        return f"{label}: {name}" if label else ROWS.get(name, name.replace("_", " "))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        shared = {k: v for k, v in vars(self).items() if k != "sources"}
        return shared | {"sources": {name: dict(vars(source)) for name, source in self.sources.items()}}


def _by_k(figure: str) -> tuple[bool, int]:
    name, _, k = figure.rpartition("@")
    return name.endswith("maj"), int(k)


def _some(names: Any, most: int = 5) -> str:
    listed = list(names)
    return ", ".join(map(str, listed[:most])) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _cell(figures: dict[str, float], name: str) -> str:
    """``mean ± standard error``; lengths with one decimal, shares with three."""
    value, error = figures.get(name, math.nan), figures.get(f"{name}_se", math.nan)
    digits = 1 if name == "response_length" else 3
    if not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if math.isfinite(error) else "")


def _mean(results: list[dict[str, float]], name: str) -> str:
    """Unweighted mean over benchmarks with the error that follows from theirs; empty where one lacks the figure."""
    values = [figures.get(name, math.nan) for figures in results]
    errors = [figures.get(f"{name}_se", math.nan) for figures in results]
    if not all(map(math.isfinite, values)):
        return ""
    return _cell({"m": sum(values) / len(values), "m_se": math.hypot(*errors) / len(errors)}, "m")
