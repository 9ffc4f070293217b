"""Random faults in small runs, and whether every run goes on to the end of an undisturbed one, bit for bit.

    python benchmarks/chaos.py --machine "2-core Intel Xeon, 24 GiB, no GPU"      # 200 trials
    python benchmarks/chaos.py --each --without vllm --without launcher         # one of each kind, about a minute on two cores

Kills at any moment (the writing of a checkpoint included), the four signals and a second one, lost ranks, verifiers and vLLM workers,
a really full disk (a tmpfs of the trial's own), altered checkpoints; both engines, one process, DDP and FSDP2 on two gloo ranks. After
each, the same command with `--resume auto` has to end with the weights, optimizer, metrics, samples, counts, events and exported model
of a run that nobody disturbed. Trial N of a seed is the same trial everywhere, up to what the clock decides. Finished trials are kept
in `--folder`, so that the command goes on where it was stopped and seeds add up; `--only N` repeats one and keeps its files.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "chaos.json"
PAGE = ROOT / "docs" / "trust.md"
MARKS = ("<!-- chaos -->", "<!-- /chaos -->")
BAD = ("lost", "inexact", "hangs", "left behind", "unclear ends", "broken trials")
for name, value in {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200"}.items():
    os.environ.setdefault(name, value)

from chaos_damage import small_disk  # noqa: E402
from chaos_process import Run, become_reaper, end_all  # noqa: E402
from chaos_runs import SETTINGS, Setting, arguments, outcome, write_files  # noqa: E402
from chaos_trial import SHARED_MEMORY, Reference, Trial, describe  # noqa: E402
from chaos_trials import SCENARIOS, draw, one_of_each  # noqa: E402


def undisturbed(setting: Setting, folder: Path) -> Reference:
    """Run a setting without any fault.

    Raises:
        RuntimeError: it does not end well.
    """
    run_dir, scratch = folder / "run", folder / "scratch"
    scratch.mkdir(parents=True)
    run = Run(arguments(setting, run_dir, folder.parent, "--resume=auto"), folder / "start", run_dir, scratch, setting.world)
    ended = run.wait(600)
    if ended.status != [0] * setting.world or ended.left:
        raise RuntimeError(f"{setting.name}: the undisturbed run ended with {ended.status}: {ended.said[0][-2000:]}")
    files = [sum(words[0] == "file" for words in events) for events in ended.events]
    return Reference(outcome(run_dir), files, ended.seconds)


def warm_up(folder: Path) -> None:
    """Import here what a run imports on its way, so that its forks find it."""
    import aer_lightning.cli  # noqa: F401

    listed = folder / "modules"
    if (pid := os.fork()) == 0:
        status = 1
        with suppress(BaseException):
            from aer_lightning.__main__ import main

            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            main(arguments(SETTINGS["countdown"], folder / "first", folder))
            outcome(folder / "first")
            listed.write_text("\n".join(sys.modules))
            status = 0
        os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("a first run, without any fault, did not end well")
    for name in listed.read_text().splitlines():
        with suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def one(number: int, seed: int, references: dict[str, Reference], folder: Path) -> dict[str, Any]:
    """One trial in this process, which is a fork of its own."""
    name, scenario, setting, rng = draw(seed, number)
    begun = time.monotonic()
    with suppress(OSError):  # shared memory of its own, so that it shows what stays there
        small_disk(SHARED_MEMORY, mib=1024)
    trial = Trial(SETTINGS[setting], references[setting], folder / f"trial{number}", folder, rng)
    try:
        did = scenario(trial)
    except Exception as error:
        did = f"{type(error).__name__}: {error}"
        trial.report("broken trials", did)
        traceback.print_exc()
    return {"number": number, "seed": seed} | describe(trial, name, did, time.monotonic() - begun)


class Pool:
    """Trials as forks, so many at a time."""

    def __init__(self, seed: int, references: dict[str, Reference], folder: Path, keep: bool) -> None:
        self.seed, self.references, self.folder, self.keep = seed, references, folder, keep
        self.running: dict[int, int] = {}

    def start(self, number: int) -> None:
        """Begin a trial."""
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                become_reaper()
                row = one(number, self.seed, self.references, self.folder)
                end_all(os.getpid())
                (self.folder / f"trial{number}.json").write_text(json.dumps(row))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(0)
        self.running[pid] = number

    def wait(self) -> dict[str, Any]:
        """The row of the next trial that ends."""
        pid, _ = os.wait()
        number = self.running.pop(pid)
        path = self.folder / f"trial{number}.json"
        if not path.exists():
            problem = ["broken trials", "the trial's own process died"]
            return {"number": number, "seed": self.seed, "trial": draw(self.seed, number)[0], "did": "", "problems": [problem]}
        row = json.loads(path.read_text())
        path.unlink()
        if not row["problems"] and not self.keep:
            shutil.rmtree(self.folder / f"trial{number}", ignore_errors=True)
        return row


def table(rows: list[dict[str, Any]]) -> str:
    """The report as Markdown: a line for each kind of trial and a sum."""
    kinds = dict.fromkeys(entry[0] for entry in SCENARIOS)
    head = ["what was done", "engine and strategy", "trials", "steps done again", *BAD]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "--:|" * (len(head) - 2)]
    for name in kinds:
        of = [row for row in rows if row["trial"] == name]
        if of:
            where = Counter(f"{_engine(row)}, {row.get('strategy', '')}" for row in of)
            lines.append(_line(name, "; ".join(f"{count} {place}" for place, count in where.most_common()), of))
    return "\n".join([*lines, _line("**all**", "", rows)])


def _engine(row: dict[str, Any]) -> str:
    return "vLLM" if row.get("engine") == "VLLMEngine" else "transformers"


def _line(name: str, where: str, rows: list[dict[str, Any]]) -> str:
    counts = [sum(any(kind == bad for kind, _ in row["problems"]) for row in rows) for bad in BAD]
    again = sum(row.get("steps_again", 0) for row in rows)
    return "| " + " | ".join([name, where, str(len(rows)), str(again), *map(str, counts)]) + " |"


def write_page(text: str) -> None:
    """Put the report between its marks in docs/trust.md."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(MARKS[0], 1)
    PAGE.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{rest.split(MARKS[1], 1)[1]}", encoding="utf-8")


def write_result(rows: list[dict[str, Any]], machine: str) -> None:
    """The trials as JSON, one a line, and the report in docs/trust.md."""
    rows = sorted(rows, key=lambda row: (row["seed"], row["number"]))
    seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    facts = {"machine": machine, "date": str(date.today()), "seconds": round(sum(row["seconds"] for row in rows))}
    lines = ",\n".join(json.dumps(row) for row in rows)
    RESULT.write_text(f'{json.dumps(facts)[:-1]}, "trials": [\n{lines}\n]}}\n')
    write_page(f"{machine}, {date.today()}, seeds {seeds} (`benchmarks/results/chaos.json`)\n\n{table(rows)}")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200, help="trials of this seed, those kept in --folder included")
    parser.add_argument("--minutes", type=float, default=None, help="begin no trial after so many minutes; the same command goes on later")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="trials at the same time")
    parser.add_argument("--without", action="append", default=[], choices=list(SETTINGS), help="leave out a setting")
    parser.add_argument("--only", type=int, action="append", help="repeat this trial and keep its files")
    parser.add_argument("--each", action="store_true", help="one trial of each kind")
    parser.add_argument("--folder", type=Path, default=None, help="of finished trials and of those that failed; build/chaos by default")
    parser.add_argument("--machine", default=None, help="name of this machine: writes the result and docs/trust.md")
    options = parser.parse_args(argv)
    if options.machine and (options.only or options.each):
        parser.error("--machine writes the result of whole seeds; leave it out with --only and --each")
    os.chdir(ROOT)
    begun = time.monotonic()
    folder = (options.folder or ROOT / "build" / "chaos").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="work-", dir=folder))
    kept = folder / "trials.jsonl"
    rows: list[dict[str, Any]] = []
    if options.each:
        options.only = one_of_each(options.seed, options.without)
    elif not options.only and kept.exists():
        rows = [json.loads(line) for line in kept.read_text().splitlines()]
    numbers = options.only or [n for n in range(options.trials) if (options.seed, n) not in {(row["seed"], row["number"]) for row in rows}]
    numbers = [n for n in numbers if draw(options.seed, n)[2] not in options.without]

    write_files(work)
    warm_up(work)
    needed = list(dict.fromkeys(draw(options.seed, n)[2] for n in numbers))
    references = {name: undisturbed(SETTINGS[name], work / f"undisturbed-{name}") for name in needed}
    print(f"ready after {time.monotonic() - begun:.0f} s: {len(numbers)} trials to do, {len(rows)} done before", flush=True)

    pool = Pool(options.seed, references, work, keep=bool(options.only))
    while numbers or pool.running:
        late = options.minutes is not None and time.monotonic() - begun > 60 * options.minutes
        if late:
            numbers = []
        while numbers and len(pool.running) < options.jobs:
            pool.start(numbers.pop(0))
        if not pool.running:
            break
        row = pool.wait()
        rows.append(row)
        if not options.only:
            with kept.open("a") as file:
                file.write(json.dumps(row) + "\n")
        said = "; ".join(f"{kind}: {line}" for kind, line in row["problems"]) or "as promised"
        print(
            f"{row['number']:4d} {row.get('setting', ''):9s} {row['trial']}: {row['did']}: {said} ({row.get('seconds', 0)} s)", flush=True
        )
    took = time.monotonic() - begun
    failed = [row for row in rows if row["problems"]]
    print(table(rows))
    spent = os.times()
    cpu = (spent.user + spent.system + spent.children_user + spent.children_system) / 60
    print(f"{len(rows)} trials, {len(failed)} not as promised; this call took {took / 60:.1f} min, {cpu:.1f} min of CPU time")
    if failed:
        print(f"files of those that failed in this call: {work}")
    if not failed and not options.only:
        shutil.rmtree(work, ignore_errors=True)
    if options.machine:
        write_result(rows, options.machine)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
