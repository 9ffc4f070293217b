"""What the study says, claim by claim: one sentence with its numbers each, and a table below it where one is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aer_lightning.errors import ConfigError
from aer_lightning.reporting.statistics import Estimate, estimate

Row = Mapping[str, Any]

KS = (1, 8, 32)
PARTS = {"method", "collapse", "baselines", "targets", "components", "robustness"}


@dataclass(frozen=True)
class Claims:
    """Which methods of a plan answer which question; the ``claims`` section of a plan.

    Attributes:
        method: the one that the study is about.
        collapse: the one without an entropy term.
        baselines: what the method is compared with.
        targets: the method with different targets.
        components: what is left out, by the name of the ablation.
        robustness: a method's variants over its options; the first is in the middle of the range.
        ks: which pass@k are shown, the last of them the one that exploration is judged by.
    """

    method: str
    collapse: str
    baselines: Sequence[str]
    targets: Sequence[str]
    components: Mapping[str, str]
    robustness: Mapping[str, Sequence[str]]
    ks: Sequence[int] = KS

    @classmethod
    def of(cls, section: Mapping[str, Any], path: str) -> Claims:
        """From the plan's section.

        Raises:
            ConfigError: a part is missing or unknown.
        """
        if wrong := (set(section) - {"ks"}) ^ PARTS:
            raise ConfigError(f"{path}: claims.{sorted(wrong)[0]}: claims have the parts {', '.join(sorted(PARTS))}")
        return cls(**section)

    def names(self) -> list[str]:
        """Every method that occurs."""
        variants = [name for names in self.robustness.values() for name in names]
        return [self.method, self.collapse, *self.baselines, *self.targets, *self.components, *variants]


@dataclass(frozen=True)
class Finding:
    """One claim and what came out.

    Attributes:
        title: the claim in a few words.
        sentence: what came out, with numbers.
        header, rows: a table; empty for none.
    """

    title: str
    sentence: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)


def findings(rows: Sequence[Row], claims: Claims) -> list[Finding]:
    """What finished runs say of each claim; a claim whose runs are not there is left out."""
    by_name: dict[str, dict[Any, Row]] = {}
    for row in rows:
        by_name.setdefault(row["method"], {})[row["seed"]] = row
    made = (_collapse(by_name, claims), _tracking(by_name, claims), _pass_at_k(by_name, claims), _components(by_name, claims))
    return [finding for finding in (*made, _robustness(by_name, claims)) if finding is not None]


def pass_at(row: Row, k: int) -> float:
    """pass@k of a run, averaged over its held-out sources."""
    values = [float(value) for key, value in row.items() if key.endswith(f"/pass@{k}")]
    return sum(values) / len(values) if values else math.nan


def paired(ours: Mapping[Any, Row], theirs: Mapping[Any, Row], k: int) -> Estimate:
    """Mean over seeds of the difference in pass@k of two methods, and its standard error."""
    return estimate([pass_at(ours[seed], k) - pass_at(theirs[seed], k) for seed in ours if seed in theirs])


def over_seeds(runs: Mapping[Any, Row], key: str) -> Estimate:
    """Mean over seeds of one figure of a method's runs."""
    return estimate([float(row.get(key, math.nan)) for row in runs.values()])


def _text(value: Estimate, digits: int = 3, sign: bool = False) -> str:
    if math.isnan(value.mean):
        return "–"
    mean = f"{value.mean:{'+' if sign else ''}.{digits}f}"
    return mean if math.isnan(value.error) else f"{mean} ± {value.error:.{digits}f}"


def _collapse(by_name: Mapping[str, Mapping[Any, Row]], claims: Claims) -> Finding | None:
    runs = by_name.get(claims.collapse)
    if not runs:
        return None
    last = over_seeds(runs, "last_entropy")
    sentence = f"{claims.collapse} ends at {_text(last, 2)} of its initial entropy (last tenth of the rollouts, {last.seeds} seeds)"
    if claims.method in by_name:
        mine = by_name[claims.method]
        sentence += f", {claims.method} at {_text(over_seeds(mine, 'last_entropy'), 2)}"
    return Finding("Does the entropy collapse?", sentence + ".")


def _tracking(by_name: Mapping[str, Mapping[Any, Row]], claims: Claims) -> Finding | None:
    names = [name for name in claims.targets if name in by_name]
    if not names:
        return None
    rows, shares = [], []
    for name in names:
        runs = by_name[name]
        target = estimate([row["target"] / row["anchor"] for row in runs.values()])
        share = over_seeds(runs, "in_band_late")
        shares.append(f"{_text(share, 2)} at H* = {target.mean:.1f} H_0")
        last = over_seeds(runs, "last_entropy")
        rows.append(
            [name, f"{target.mean:.2f}", _text(last, 2), _text(share, 2), _text(over_seeds(runs, "last_alpha"), 3), str(share.seeds)]
        )
    sentence = f"Share of the last half of the rollouts with an entropy within 15 % of the target: {'; '.join(shares)}."
    return Finding("Is the target tracked?", sentence, ("method", "H* / H_0", "last H / H_0", "in band, late", "last alpha", "seeds"), rows)


def _differences(by_name: Mapping[str, Mapping[Any, Row]], mine: str, others: Sequence[str], ks: Sequence[int]) -> list[list[str]]:
    return [
        [other, *(_text(paired(by_name[mine], by_name[other], k), sign=True) for k in ks)]
        for other in others
        if other in by_name and other != mine
    ]


def _pass_at_k(by_name: Mapping[str, Mapping[Any, Row]], claims: Claims) -> Finding | None:
    mine = claims.method
    others = [name for name in claims.baselines if name in by_name and name != mine]
    if mine not in by_name or not others:
        return None
    high = claims.ks[-1]
    sides: dict[str, list[str]] = {"higher": [], "lower": [], "the same within two standard errors": []}
    equal = []
    for other in others:
        at_one, at_many = (paired(by_name[mine], by_name[other], k) for k in (1, high))
        if not abs(at_one.mean) <= 2 * at_one.error:
            continue
        equal.append(other)
        beyond = abs(at_many.mean) > 2 * at_many.error
        sides[("higher" if at_many.mean > 0 else "lower") if beyond else "the same within two standard errors"].append(other)
    ours = ", ".join(f"pass@{k} {_text(estimate([pass_at(row, k) for row in by_name[mine].values()]))}" for k in claims.ks)
    sentence = f"{mine}: {ours}. "
    if equal:
        verdicts = "; ".join(f"{side} than that of {', '.join(names)}" if "same" not in side else f"{side} as that of {', '.join(names)}"
                             for side, names in sides.items() if names)  # fmt: skip
        sentence += f"Its pass@1 is the same within two standard errors as that of {', '.join(equal)}; there its pass@{high} is {verdicts}."
    else:
        sentence += "No baseline has the same pass@1 within two standard errors, so nothing can be said at equal pass@1."
    rows = _differences(by_name, mine, others, claims.ks)
    return Finding("At equal pass@1, is pass@k higher?", sentence, (f"{mine} minus", *(f"pass@{k}" for k in claims.ks)), rows)


def _components(by_name: Mapping[str, Mapping[Any, Row]], claims: Claims) -> Finding | None:
    mine = claims.method
    there = [name for name in claims.components if name in by_name]
    if mine not in by_name or not there:
        return None
    parts = []
    for name in there:
        changes = ", ".join(f"pass@{k} {_text(paired(by_name[mine], by_name[name], k), sign=True)}" for k in (1, claims.ks[-1]))
        parts.append(f"{claims.components[name]}: {changes}")
    rows = [
        [*row, *(_text(over_seeds(by_name[name], key), 2) for key in ("last_entropy", "last_reward"))]
        for name, row in zip(there, _differences(by_name, mine, there, claims.ks), strict=True)
    ]
    header = (f"{mine} minus", *(f"pass@{k}" for k in claims.ks), "its last H / H_0", "its last reward")
    return Finding("What does each part add?", f"What {mine} has more than without it: {'; '.join(parts)}.", header, rows)


def _robustness(by_name: Mapping[str, Mapping[Any, Row]], claims: Claims) -> Finding | None:
    rows, spreads = [], []
    for name, variants in claims.robustness.items():
        there = [variant for variant in variants if variant in by_name]
        if len(there) < 2:
            continue
        # The same seed for all: some variants have run with one alone.
        common = [seed for seed in by_name[there[0]] if all(seed in by_name[variant] for variant in there)]
        if not common:
            continue
        runs = [by_name[variant][common[0]] for variant in there]
        ranges = []
        for key, what in (("last_reward", "last reward"), ("last_entropy", "last H / H_0")):
            values = [float(run[key]) for run in runs]
            ranges.append(f"{what} {min(values):.2f} to {max(values):.2f}")
        spreads.append(f"{name} over {len(there)} settings: {', '.join(ranges)}")
        for variant, run in zip(there, runs, strict=True):
            shown = (float(run["last_reward"]), float(run["last_entropy"]), *(pass_at(run, k) for k in claims.ks))
            rows.append([variant, *(f"{value:.3f}" for value in shown)])
    if not spreads:
        return None
    header = ("method", "last reward", "last H / H_0", *(f"pass@{k}" for k in claims.ks))
    return Finding("Is it robust over one order of magnitude?", f"{'; '.join(spreads)} (one seed).", header, rows)


def as_markdown(found: Sequence[Finding], facts: str) -> str:
    """The findings as a page."""
    lines = ["# What came out", "", facts, ""]
    for finding in found:
        lines += [f"## {finding.title}", "", finding.sentence, ""]
        if finding.rows:
            lines += [f"| {' | '.join(finding.header)} |", f"|{'---|' * len(finding.header)}"]
            lines += [f"| {' | '.join(row)} |" for row in finding.rows] + [""]
    return "\n".join(lines)
