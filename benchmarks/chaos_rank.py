"""A rank of a run: a fork that runs the command, writes down what it does, and has its fault happen at its moment."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.symlink")


@dataclass(frozen=True)
class Moment:
    """When something happens to a rank: at its `at`-th change of a file, or after `at` seconds, or when `step` optimizer steps are done.

    Attributes:
        kind: `file`, `time` or `step`.
        at: which one, counted from 1, or seconds.
        delay: seconds after it.
    """

    kind: str
    at: float
    delay: float = 0.0


@dataclass
class Fault:
    """What happens to one rank, and when.

    Attributes:
        moment: see there.
        act: called in the rank; most send a signal.
        name: for the report.
    """

    moment: Moment
    act: Callable[[], None]
    name: str = ""


class _Notes:
    """Writes down what a rank does, and has its fault happen at its moment."""

    def __init__(self, path: Path, run_dir: Path, fault: Fault | None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._run_dir, self._fault, self._files, self._steps = str(run_dir), fault, 0, 0
        self._begun = time.monotonic()
        sys.addaudithook(self._hear)
        if fault is not None and fault.moment.kind == "time":
            self._later(fault.moment.at)

    def write(self, *words: Any) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())

    def step(self, done: int) -> None:
        """Another optimizer step is finished."""
        self.write("step", done)
        self._steps += 1
        if (fault := self._fault) is not None and fault.moment.kind == "step" and self._steps == fault.moment.at:
            self._later(fault.moment.delay)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if not isinstance(flags, int) or not flags & _WRITING:
                return
        elif event in _CHANGES:
            path = args[0]
        else:
            return
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(self._run_dir + "/"):
            return
        self._files += 1
        name = os.path.relpath(os.fspath(path), self._run_dir)
        if (fault := self._fault) is not None and fault.moment.kind == "file" and self._files == fault.moment.at:
            self.write("at", event, name)
            if fault.moment.delay:
                self._later(fault.moment.delay)
            else:
                self._happen()
        if self._fault is None:
            self.write("file", event, name)

    def _later(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self._happen)
        timer.daemon = True
        timer.start()

    def _happen(self) -> None:
        fault, self._fault = self._fault, None
        if fault is not None:
            self.write("fault", f"{time.monotonic() - self._begun:.3f}", fault.name)
            fault.act()


def be_a_rank(
    arguments: list[str], folder: Path, run_dir: Path, scratch: Path, rank: int, variables: dict[str, str], fault: Fault | None
) -> None:
    """Run the command and end the process as an interpreter does. Never returns."""
    for stream in (1, 2):
        said = os.open(folder / f"said.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, stream)
    os.environ.update(variables, TMPDIR=str(scratch))
    tempfile.tempdir = None
    for name in ("AER_LIGHTNING_RUN_DIR", "AER_LIGHTNING_RESUMED", "PL_GLOBAL_SEED"):
        os.environ.pop(name, None)
    sys.argv = ["aer_lightning", *arguments]
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from aer_lightning.__main__ import main
    from aer_lightning.callbacks.checkpoint import RolloutCheckpoint
    from aer_lightning.checkpoints import saver

    rank_zero_only.rank = rank
    sys.modules["__main__"].__spec__ = find_spec("aer_lightning.__main__")  # what Lightning's launcher starts further ranks with
    notes = _Notes(folder / f"events.{rank}", run_dir, fault)
    take, commit = RolloutCheckpoint.take, saver.commit

    def take_and_note(self: Any, trainer: Any, last: bool) -> None:
        take(self, trainer, last)
        notes.step(self.step)

    def commit_and_note(partial: Path, files: Any, facts: dict[str, Any]) -> Path:
        final = commit(partial, files, facts)
        notes.write("saved", facts["step"])
        return final

    RolloutCheckpoint.take, saver.commit = take_and_note, commit_and_note  # type: ignore[method-assign, assignment]
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    notes.write("ended", status)
    os._exit(status)
