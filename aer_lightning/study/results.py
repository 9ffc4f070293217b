"""What the study found: the search's choice, one row per run, and a report per group of methods."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aer_lightning.errors import DataError
from aer_lightning.reporting.counts import pass_at_ks, read_evaluation
from aer_lightning.reporting.runs import FinishedRun, group_runs, read_run
from aer_lightning.reporting.statistics import PASS_KS, run_figures
from aer_lightning.study.findings import as_markdown, findings
from aer_lightning.study.plan import Plan, Run
from aer_lightning.study.runner import DONE, finished
from aer_lightning.study.verdicts import verdicts

Row = dict[str, Any]


def search_score(folder: Path, ks: Sequence[int]) -> dict[str, float]:
    """pass@k of the last evaluation for each k, averaged over held-out sources, and their mean as ``score``.

    Raises:
        DataError: the run has no evaluation, or not that many samples.
    """
    found = [pass_at_ks(counts.problems, ks) for counts in read_evaluation(folder).values()]
    if not found or any(len(row) < len(set(ks)) for row in found):
        raise DataError(f"{folder}: no evaluation with at least {max(ks)} samples a problem, which the search is decided by")
    values = {f"pass@{k}": sum(row[k] for row in found) / len(found) for k in ks}
    return values | {"score": sum(values.values()) / len(values)}


def choose(plan: Plan, root: Path) -> tuple[dict[str, Mapping[str, Any]], list[Row]]:
    """The candidate of the highest score for each method, the first of equals; and one row per candidate.

    A method with a candidate that has not finished keeps its first candidate and has no rows.
    """
    chosen: dict[str, Mapping[str, Any]] = {}
    rows: list[Row] = []
    runs = plan.search_runs()
    for method in plan.searched():
        mine = [run for run in runs if run.method == method.name]
        if not all(finished(root / run.folder) for run in mine):
            continue
        scores = [search_score(root / run.folder, plan.search_ks) for run in mine]
        best = max(range(len(scores)), key=lambda i: (scores[i]["score"], -i))
        chosen[method.name] = method.candidates[best]
        for i, (run, score) in enumerate(zip(mine, scores, strict=True)):
            entropy = run_figures(read_run(str(root / run.folder)))["last_entropy"]
            rows.append(
                {
                    "method": method.name,
                    "candidate": json.dumps(method.candidates[i]),
                    **score,
                    "last_entropy": entropy,
                    "chosen": i == best,
                }
            )
    return chosen, rows


def result_rows(runs: Sequence[Run], root: Path, chosen: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """One row per finished run: its figures, and the budget that it had."""
    rows = []
    for run in runs:
        folder = root / run.folder
        if not finished(folder):
            continue
        read = read_run(f"{run.method}={folder}")
        facts = json.loads((folder / DONE).read_text(encoding="utf-8"))
        row: Row = {"method": run.method, "seed": read.seed, "chosen": json.dumps(chosen.get(run.method, {}))}
        levels = {"anchor": read.metrics.anchor, "target": read.metrics.target, "last_alpha": read.metrics.last("aer/alpha")}
        seconds = (facts.get("seconds") or {}).get("total", math.nan)
        rows.append(row | budget(read) | {"seconds": seconds} | levels | initial(read) | run_figures(read))
    return rows


def initial(run: FinishedRun) -> dict[str, float]:
    """pass@k of the initial policy over held-out sources, as ``initial_pass@k``; empty for a run that did not evaluate it."""
    first = next((e for e in run.metrics.evaluations if e.rollouts == 0), None)
    values: dict[str, list[float]] = {}
    for figures in first.sources.values() if first else ():
        for k in PASS_KS:
            if f"pass@{k}" in figures:
                values.setdefault(f"initial_pass@{k}", []).append(figures[f"pass@{k}"])
    return {name: sum(found) / len(found) for name, found in values.items()}


def budget(run: FinishedRun) -> dict[str, float]:
    """Rollouts, completions trained on, optimizer steps, and completions generated (more than trained on under dynamic sampling)."""
    sizes, rollouts = run.data, len(run.metrics)
    sequences = (sizes.get("prompts_per_rollout") or 0) * (sizes.get("responses_per_prompt") or 0)
    tries = run.metrics.column("rollout/sampling_tries")
    generated = sum(sequences * (1 if math.isnan(t) else t) for t in tries)
    return {
        "rollouts": rollouts,
        "completions": rollouts * sequences,
        "optimizer_steps": rollouts * (sizes.get("optimizer_steps_per_rollout") or 1),
        "completions_generated": generated,
    }


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A CSV file with every column that any row has, numbers to six digits; none without rows."""
    if not rows:
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def write_results(plan: Plan, root: Path, out: Path, command: str) -> list[str]:
    """Write ``results.csv``, ``search.csv``, ``study.json``, ``findings.md`` and a comparison for each report of the plan into ``out``.

    The first report has the findings at its top, and ``headline.png`` shows its methods. A method is in a report once all its seeds have
    finished; a report needs two methods, so that there is something to compare.

    Returns:
        The names of methods that are in no report yet.
    """
    from aer_lightning.compare import write_report
    from aer_lightning.reporting.comparison_figures import draw_headline

    chosen, search = choose(plan, root)
    runs = plan.final_runs(chosen)
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / "search.csv", search)
    rows = result_rows(runs, root, chosen)
    write_rows(out / "results.csv", rows)
    judged = verdicts(rows, plan.claims)
    found = [*([judged] if judged else []), *findings(rows, plan.claims)]
    place = machine()
    facts = {"command": command, "machine": place, "seeds": list(plan.seeds), "rollouts": plan.rollouts, "chosen": chosen}
    (out / "study.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    made_on = f"{place['processor']}, {place['cores']} cores, torch {place['torch']}"
    basis = f"`{command}`, {made_on}; {len(rows)} of {len(runs)} runs, {plan.rollouts} rollouts each. Mean ± standard error over seeds."
    (out / "findings.md").write_text(as_markdown(found, basis), encoding="utf-8")
    folders = {name: [root / run.folder for run in runs if run.method == name] for name in plan.methods}
    ready = {name: paths for name, paths in folders.items() if all(map(finished, paths))}
    for report, names in plan.reports.items():
        members = [f"{name}={path}" for name in names for path in ready.get(name, [])]
        if sum(name in ready for name in names) > 1:
            print(f"\n{report}")
            methods, first = group_runs([read_run(member) for member in members]), report == next(iter(plan.reports))
            write_report(methods, out / report, [(f.title, f.sentence) for f in found] if first else [])
            if first and (picture := draw_headline(methods)):
                (out / "headline.png").write_bytes(picture.data)
    return [name for name in plan.methods if name not in ready]


def machine() -> dict[str, str]:
    """What the numbers were made on."""
    from importlib.metadata import version

    names = ("torch", "lightning", "transformers")
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
