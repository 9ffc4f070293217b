"""``evaluation.jsonl``: per-problem counts of every evaluation, and pass@k against k from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aer_lightning.errors import DataError

EVALUATION_FILE = "evaluation.jsonl"


@dataclass(frozen=True)
class Problem:
    """What one evaluation found for one problem.

    Attributes:
        id: the problem's name.
        label: its group for reporting.
        n: samples.
        correct: right ones among them.
        distinct_correct: different right answers.
        tokens: of all samples.
        truncated: samples that ran into the length limit.
    """

    id: str
    label: str
    n: int
    correct: int
    distinct_correct: int
    tokens: int = 0
    truncated: int = 0


@dataclass
class SourceCounts:
    """The last evaluation of a source and, if it was made, the one before training."""

    source: str
    step: int
    problems: list[Problem]
    initial: list[Problem]

    def labels(self) -> list[str]:
        """Labels of the problems, sorted; none where all problems have the same."""
        found = sorted({p.label for p in self.problems})
        return found if len(found) > 1 else []


def read_evaluation(folder: Path) -> dict[str, SourceCounts]:
    """Counts by source; empty where the run wrote none.

    A problem that was written twice at a step (by a run that was resumed in its folder) counts once, as written last.

    Raises:
        DataError: a line is malformed; names file and line.
    """
    path = Path(folder) / EVALUATION_FILE
    if not path.is_file():
        return {}
    found: dict[str, dict[int, dict[str, Problem]]] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                problem = Problem(
                    str(row["id"]),
                    str(row.get("label", "")),
                    int(row["n"]),
                    int(row["correct"]),
                    int(row.get("distinct_correct", 0)),
                    int(row.get("tokens", 0)),
                    int(row.get("truncated", 0)),
                )
                if not 0 <= problem.correct <= problem.n or problem.n < 1:
                    raise ValueError(f"{problem.correct} of {problem.n} correct")
                found.setdefault(str(row["source"]), {}).setdefault(int(row["step"]), {})[problem.id] = problem
            except (ValueError, KeyError, TypeError) as error:
                what = f"no field {error}" if isinstance(error, KeyError) else str(error)
                raise DataError(f"{path}:{number}: not a line of an evaluation ({what}); delete the line or the file") from None
    counts = {}
    for source, steps in found.items():
        last = max(steps)
        initial = list(steps[0].values()) if 0 in steps and last > 0 else []
        counts[source] = SourceCounts(source, last, list(steps[last].values()), initial)
    return counts


def powers_of_two(limit: int) -> list[int]:
    """1, 2, 4, ... up to ``limit``, and ``limit``."""
    ks = [2**i for i in range(limit.bit_length()) if 2**i <= limit]
    return ks if ks and ks[-1] == limit else [*ks, limit]


def pass_at_ks(problems: Sequence[Problem], ks: Sequence[int]) -> dict[int, float]:
    """Unbiased pass@k for each k that every problem has samples for; empty without problems."""
    if not problems:
        return {}
    from torch import tensor

    from aer_lightning.metrics import pass_at_k

    correct, samples = tensor([p.correct for p in problems]), tensor([p.n for p in problems])
    return {k: float(pass_at_k(correct, samples, k)) for k in ks if k <= int(samples.min())}


def distinct_per_problem(problems: Sequence[Problem]) -> float:
    """Different right answers per problem, averaged over all problems, those without a right answer included as 0."""
    return sum(p.distinct_correct for p in problems) / len(problems) if problems else float("nan")
