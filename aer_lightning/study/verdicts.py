"""A line per claim of a study: supported, not supported, or undecided, by 95 % intervals.

A study writes them itself; ``python -m aer_lightning.study.verdicts docs/study/results.csv [PLAN]`` prints those of results that are there.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from aer_lightning.reporting.statistics import Estimate, estimate
from aer_lightning.study.findings import Claims, Finding, Row, over_seeds, paired, pass_at

HOLDS = (0.85, 1.15)  # of H*
COLLAPSED = 0.5  # of H_0
RULE = (
    "By 95 % t intervals over seeds, differences paired by seed. Supported: the whole interval speaks for the claim; not supported: the "
    "whole interval speaks against it; undecided: neither."
)


def verdict(value: Estimate, low: float, high: float) -> str:
    """What a 95 % interval says of the claim that a value lies in [low, high].

    Returns:
        ``supported`` if the whole interval lies in it, ``not supported`` if none of it does, ``undecided`` otherwise, or with one seed.
    """
    first, last = value.interval
    if low <= first and last <= high:
        return "supported"
    return "not supported" if last < low or first > high else "undecided"


def verdicts(rows: Sequence[Row], claims: Claims) -> Finding | None:
    """A line per claim, decided by 95 % t intervals over seeds; None if no claim has its runs."""
    by_name: dict[str, dict[Any, Row]] = {}
    for row in rows:
        by_name.setdefault(row["method"], {})[row["seed"]] = row
    lines = [*_verdicts_on_entropy(by_name, claims), *_verdicts_on_passes(by_name, claims)]
    return Finding("Claim by claim", RULE, ("claim", "measured", "95 % interval", "seeds", "verdict"), lines) if lines else None


def _line(claim: str, value: Estimate, low: float, high: float, digits: int = 3, sign: bool = False) -> list[str]:
    plus = "+" if sign else ""
    ends = "–" if math.isnan(value.error) else " to ".join(f"{end:{plus}.{digits}f}" for end in value.interval)
    return [claim, f"{value.mean:{plus}.{digits}f}", ends, str(value.seeds), verdict(value, low, high)]


def _verdicts_on_entropy(by_name: Mapping[str, Mapping[Any, Row]], claims: Claims) -> list[list[str]]:
    lines = []
    if runs := by_name.get(claims.collapse):
        claim = f"{claims.collapse} loses more than half of its entropy (last H / H_0 below {COLLAPSED})"
        lines.append(_line(claim, over_seeds(runs, "last_entropy"), -math.inf, COLLAPSED, 2))
    for name in claims.targets:
        if runs := by_name.get(name):
            held = estimate([row["last_entropy"] * row["anchor"] / row["target"] for row in runs.values()])
            lines.append(_line(f"{name} ends within 15 % of its target (last H / H*)", held, *HOLDS, 2))
    return lines


def _verdicts_on_passes(by_name: Mapping[str, Mapping[Any, Row]], claims: Claims) -> list[list[str]]:
    mine, k = claims.method, claims.ks[-1]
    ours = by_name.get(mine)
    if not ours:
        return []
    lines = []
    known = f"initial_pass@{k}"
    before = {seed: row[known] for runs in by_name.values() for seed, row in runs.items() if not math.isnan(row.get(known, math.nan))}
    if gained := [pass_at(row, k) - before[seed] for seed, row in ours.items() if seed in before]:
        lines.append(_line(f"{mine}'s pass@{k} is above the initial policy's", estimate(gained), 0.0, math.inf, sign=True))
    for other in (name for name in claims.baselines if name in by_name and name != mine):
        theirs = by_name[other]
        line = _line(f"{mine}'s pass@{k} is above that of {other}", paired(ours, theirs, k), 0.0, math.inf, sign=True)
        if line[-1] == "supported" and verdict(paired(ours, theirs, 1), 0.0, math.inf) == "not supported":
            line[-1] = "supported, at a lower pass@1"
        lines.append(line)
    for name, part in claims.components.items():
        if name in by_name:
            lines.append(_line(f"pass@{k} is higher with the {part}", paired(ours, by_name[name], k), 0.0, math.inf, sign=True))
    return [line for line in lines if line[1].strip("+-") != "nan"]


def read_results(path: str) -> list[Row]:
    """Rows of a ``results.csv`` as ``study.results`` made them, numbers as numbers, without what is empty."""
    words = ("method", "chosen")
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: v if k in words else float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


if __name__ == "__main__":
    from aer_lightning.study.findings import as_markdown
    from aer_lightning.study.plan import read_plan

    _claims = read_plan(sys.argv[2] if len(sys.argv) > 2 else "configs/study/plan.yaml").claims
    _found = verdicts(read_results(sys.argv[1]), _claims)
    print(as_markdown([_found] if _found else [], f"From `{sys.argv[1]}`."))
