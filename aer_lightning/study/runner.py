"""Runs a list of trainings, one process per core; what is finished is left alone, what was interrupted goes on from its checkpoint."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from aer_lightning.checkpoints.folder import FOLDER, checkpoints
from aer_lightning.errors import ConfigError
from aer_lightning.study.configuration import read_yaml
from aer_lightning.study.plan import Run

DONE = "summary.json"  # written when a run has trained, evaluated and reported
# One core per process: two processes with two threads each are slower than two with one.
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | {"TOKENIZERS_PARALLELISM": "false"}

Launch = Callable[[Sequence[str], Path], int]


def finished(folder: Path) -> bool:
    """Whether a run folder is that of a finished run."""
    return (folder / DONE).is_file()


def check_finished(runs: Sequence[Run], root: Path) -> None:
    """Refuse to count a run as done that was made by another configuration.

    Raises:
        ConfigError: names the folder.
    """
    for run in runs:
        folder = root / run.folder
        begun = finished(folder) or bool(checkpoints(folder / FOLDER))
        if begun and (not _file(folder).is_file() or read_yaml(_file(folder)) != run.config):
            raise ConfigError(f"{folder}: was made with another plan; delete it to run it again, or choose another --runs")


def _file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.yaml")


def prepare(run: Run, root: Path) -> list[str]:
    """Write the run's configuration, and return the command line that starts the run or has it go on."""
    import yaml

    folder = root / run.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _file(folder).write_text(yaml.safe_dump(run.config, sort_keys=False), encoding="utf-8")
    return ["fit", "-c", str(_file(folder)), "--run_dir", str(folder), "--resume", "auto"]


def complete(run: Run, root: Path) -> None:
    """Tidy up after a run, which needs its checkpoints no more."""
    shutil.rmtree(root / run.folder / FOLDER, ignore_errors=True)


class Processes:
    """Starts ``python -m aer_lightning`` on one core each, and ends what it started when asked to."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __call__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> int:
        """Run to the end with the output in ``log``; returns the exit status."""
        with log.open("wb") as output:
            with self._lock:
                if self._stopped:
                    return 130
                process = subprocess.Popen(
                    [sys.executable, "-m", "aer_lightning", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=os.environ | (ONE_CORE if environment is None else dict(environment)),
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def stop(self) -> None:
        """End every process that is running; no further one starts."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def run_all(
    runs: Sequence[Run], root: Path, jobs: int, launch: Launch, seconds: Callable[[Run], float], say: Callable[[str], None] = print
) -> list[str]:
    """Bring every run to its end.

    Args:
        runs: in the order in which they start.
        root: folder of the study's runs.
        jobs: processes at a time.
        launch: runs one command line with its output in a file.
        seconds: estimated time of a run, for what is left.
        say: prints a line.

    Returns:
        One line for each run that failed.
    """
    first = {run.folder: run for run in reversed(runs)}
    runs = [run for run in runs if first[run.folder] is run]  # what two methods share is run once, under the name of the first
    waiting = [run for run in runs if not finished(root / run.folder)]
    if len(waiting) < len(runs):
        say(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already")
    failures: list[str] = []
    left = sum(map(seconds, waiting))
    done = len(runs) - len(waiting)
    with ThreadPoolExecutor(jobs) as pool:
        pending: dict[Future[tuple[int, float]], Run] = {pool.submit(_one, run, root, launch): run for run in waiting}
        try:
            while pending:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    run = pending.pop(future)
                    (status, spent), left, done = future.result(), left - seconds(run), done + 1
                    if status:
                        failures.append(f"{run.name}: {_reason(_log(root / run.folder), status)}")
                    outcome = f"failed, see {_log(root / run.folder)}" if status else f"finished in {minutes(spent)}"
                    say(f"[{done}/{len(runs)}] {run.name} {outcome}; about {minutes(left / jobs)} left")
        except BaseException:
            for future in pending:
                future.cancel()
            if (stop := getattr(launch, "stop", None)) is not None:
                stop()
            raise
    return failures


def _log(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


def _one(run: Run, root: Path, launch: Launch) -> tuple[int, float]:
    started = time.perf_counter()
    folder = root / run.folder
    status = launch(prepare(run, root), _log(folder))
    if status == 0 and not finished(folder):
        status = 1
    if status == 0:
        complete(run, root)
    return status, time.perf_counter() - started


def _reason(log: Path, status: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    said = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)
    return said or (lines[-1].strip() if lines and lines[-1].strip() else f"ended with status {status}")


def minutes(seconds: float) -> str:
    """A duration as a person says it."""
    whole = max(0, round(seconds / 60))
    return f"{whole // 60} h {whole % 60:02d} min" if whole >= 60 else f"{whole} min" if whole else f"{max(0, round(seconds))} s"
