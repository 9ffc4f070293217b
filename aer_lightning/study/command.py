"""The ``study`` command: plan, search, runs, results."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aer_lightning.errors import ConfigError, UserError
from aer_lightning.study.plan import Plan, Run, read_plan
from aer_lightning.study.runner import Launch, Processes, check_finished, finished, minutes, run_all

PLAN = "configs/study/plan.yaml"
EPILOG = (
    "Run it again to go on: finished runs are kept, interrupted ones go on from their last checkpoint. A user's own study is another "
    "--plan: files and options of configs/, seeds, and the candidates of each method's search."
)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m aer_lightning study", description="Every method on one task with one budget, over seeds.", epilog=EPILOG
    )
    parser.add_argument("--plan", default=PLAN, metavar="FILE", help=f"what to run (default: {PLAN})")
    parser.add_argument("--runs", metavar="DIR", help="where run folders go (default: runs/study)")
    parser.add_argument("--out", metavar="DIR", help="where results and reports go (default: docs/study)")
    parser.add_argument("--jobs", type=int, default=cores(), metavar="N", help="processes, one core each (default: all)")
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD", help="these methods of the plan alone")
    parser.add_argument("--set", nargs="+", default=[], metavar="OPTION=VALUE", help="options of every run, over all that the plan says")
    parser.add_argument("--quick", action="store_true", help="a tiny version in about a minute, below runs/study-quick")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and its estimated time, and run nothing")
    options = parser.parse_args(argv)
    options.runs = options.runs or ("runs/study-quick/runs" if options.quick else "runs/study")
    options.out = options.out or ("runs/study-quick/report" if options.quick else "docs/study")
    return options


def main(argv: list[str], launch: Launch | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 for what the user can mend, said in one line.

    Args:
        argv: options.
        launch: runs one command line; processes if left out.
    """
    try:
        options = parse(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        if options.jobs < 1:
            raise ConfigError(f"--jobs: {options.jobs} processes run nothing; give at least 1")
        plan = read_plan(options.plan, quick=options.quick, only=options.only)
        plan = replace(plan, options=changes(options.set))
        if options.dry_run:
            print("\n".join(describe(plan, Path(options.runs), options.jobs)))
            return 0
        if threading.current_thread() is threading.main_thread():
            # Ended by a signal the study ends its processes too, as it does at Ctrl-C: they would go on without it.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        return run(plan, options, launch or Processes())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def changes(pairs: Sequence[str]) -> dict[str, Any]:
    """``OPTION=VALUE`` as a mapping, the values read as YAML.

    Raises:
        ConfigError: a pair is none.
    """
    import yaml

    found = {}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        if not option or not equals:
            raise ConfigError(f"--set: {pair!r} is not OPTION=VALUE, such as model.init_args.pretrained=FOLDER")
        try:
            found[option] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set: the value of {option} is not YAML: {value}") from None
    return found


def run(plan: Plan, options: argparse.Namespace, launch: Launch) -> int:
    """Search, then every method with every seed, then results; whatever failed is said at the end."""
    from aer_lightning.study.results import choose, write_results

    root = Path(options.runs)
    check_finished(plan.search_runs(), root)
    failures = run_all(plan.search_runs(), root, options.jobs, launch, plan.seconds)
    chosen = choose(plan, root)[0]
    # Without its search a method would run with a candidate that nothing chose.
    ready = {m.name for m in plan.methods.values() if all(n not in _undecided(plan, chosen) for n in (m.name, m.like))}
    runs = [r for r in plan.final_runs(chosen) if r.method in ready]
    check_finished(runs, root)
    failures += run_all(runs, root, options.jobs, launch, plan.seconds)
    missing = write_results(plan, root, Path(options.out), _command(options))
    print(f"results: {options.out}" + (f"; not finished: {', '.join(missing)}" if missing else ""))
    if failures:
        raise ConfigError(f"{len(failures)} runs failed, and go on where they stopped when the study is run again: {'; '.join(failures)}")
    return 0


def _command(options: argparse.Namespace) -> str:
    """The command that gives these results again; where they lie, and how many processes make them, is no part of it."""
    words = ["--plan", options.plan] if options.plan != PLAN else []
    words += ["--quick"] if options.quick else []
    for name in ("only", "set"):
        words += [f"--{name}", *getattr(options, name)] if getattr(options, name) else []
    return shlex.join(["python", "-m", "aer_lightning", "study", *words])


def _undecided(plan: Plan, chosen: Mapping[str, Any]) -> set[str]:
    return {m.name for m in plan.searched()} - set(chosen)


def describe(plan: Plan, root: Path, jobs: int) -> list[str]:
    """The plan in lines, with its estimated time; what is finished counts no more."""
    search, final = plan.search_runs(), plan.final_runs({})
    lines = []
    for title, runs in (("search", search), ("methods", final)):
        lines.append(f"{title}: {len(runs)} runs of {runs[0].rollouts if runs else 0} rollouts")
        for name in dict.fromkeys(r.method for r in runs):
            lines.append("  " + _line(plan, [r for r in runs if r.method == name], root, title == "search"))
    distinct = {r.folder: r for r in [*search, *final]}
    left = [r for r in distinct.values() if not finished(root / r.folder)]
    total = sum(map(plan.seconds, left))
    lines.append(f"{len(left)} of {len(distinct)} runs left, about {minutes(total / jobs)} on {jobs} core{'s' * (jobs > 1)}")
    return lines


def _line(plan: Plan, runs: Sequence[Run], root: Path, search: bool) -> str:
    method = plan.methods[runs[0].method]
    done = sum(finished(root / r.folder) for r in runs)
    what = " | ".join(", ".join(f"{k}={v}" for k, v in c.items()) for c in method.candidates) if search else method.overlay or ""
    if not search:
        if method.like:
            what += f" like {method.like}"
        if method.changes:
            what += " " + ", ".join(f"{k}={v}" for k, v in method.changes.items())
    progress = f", {done} finished" if done else ""
    return f"{method.name:<16} {len(runs)} x {minutes(plan.seconds(runs[0]))}{progress}  {what.strip()}".rstrip()
