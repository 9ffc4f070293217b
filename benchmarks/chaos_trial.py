"""A trial: its folder, its moments, its starts of the command, and what it found that was not as promised."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_process import Ended, Run
from chaos_rank import Fault, Moment
from chaos_runs import Setting, arguments, leftovers, outcome

DEADLINE = {"transformers": 180.0, "vllm": 420.0}  # seconds for one start of the command, on a machine that others use too
SHARED_MEMORY = Path("/dev/shm")
SETTLE = 40.0  # seconds that other processes get to end; ranks that Lightning started notice after 6 s that rank zero is gone


@dataclass
class Reference:
    """An undisturbed run of a setting.

    Attributes:
        outcome: digests of what it left.
        files: how often each rank changed a file.
        seconds: from start to end.
    """

    outcome: dict[str, str]
    files: list[int]
    seconds: float


@dataclass
class Trial:
    """One trial and what it found.

    Attributes:
        setting: what is run.
        reference: its undisturbed run.
        folder: for everything of this trial.
        files: what `write_files` made.
        rng: of this trial.
        problems: (kind, one line) of everything that was not as promised; kinds are columns of the report.
        lost: finished optimizer steps that had to be done again, as a kill may.
    """

    setting: Setting
    reference: Reference
    folder: Path
    files: Path
    rng: random.Random
    problems: list[tuple[str, str]] = field(default_factory=list)
    lost: int = 0
    starts: int = 0

    def __post_init__(self) -> None:
        self.run_dir, self.scratch = self.folder / "run", self.folder / "scratch"
        self.scratch.mkdir(parents=True)
        self.shared = set(os.listdir(SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else None
        self.deadline = DEADLINE["vllm" if self.setting.engine == "VLLMEngine" else "transformers"]

    # -- moments ---------------------------------------------------------------------------------------------------------------------

    def moment(self, rank: int = 0, early: float = 0.0, late: float = 1.0) -> Moment:
        """Somewhere in the run: at a change of a file, exactly or a little later, or when so much of its time has passed."""
        if self.rng.random() < 0.3 or self.reference.files[rank] < 4:
            return Moment("time", self.rng.uniform(early, late * 0.9) * self.reference.seconds)
        at = self.rng.randint(1 + int(early * self.reference.files[rank]), max(1, int(late * self.reference.files[rank])))
        return Moment("file", at, self.rng.choice([0.0, 0.0, self.rng.uniform(0, 0.03), self.rng.uniform(0, 0.3)]))

    def in_training(self, most: int | None = None) -> Moment:
        """Some time after one of the first `most` optimizer steps."""
        return Moment("step", self.rng.randint(1, most or self.setting.updates - 1), self.rng.choice([0.0, self.rng.uniform(0, 0.4)]))

    # -- runs ------------------------------------------------------------------------------------------------------------------------

    def start(self, *extra: str, faults: dict[int, Fault] | None = None) -> Run:
        """The command with `--resume auto`, in the trial's folder."""
        self.starts += 1
        command = arguments(self.setting, self.run_dir, self.files, "--resume=auto", *extra)
        return Run(command, self.folder / f"start{self.starts}", self.run_dir, self.scratch, self.setting.world, faults)

    def end(self, run: Run, without: frozenset[int] = frozenset()) -> Ended:
        """Wait for its end, and look whether it hung, left processes behind or showed a traceback."""
        ended = run.wait(self.deadline, settle=SETTLE, without=without)
        for rank, status in enumerate(ended.status):
            if status is None and rank not in without:
                self.report("hangs", f"rank {rank} had not ended after {self.deadline:.0f} s")
        if ended.left:
            self.report("left behind", f"processes: {', '.join(c[:80] for c in ended.left)}")
        for rank, said in enumerate(ended.said):
            if "Traceback (most recent call last)" in said:
                self.report("unclear ends", f"rank {rank} showed a traceback: {said.strip().splitlines()[-1][:200]}")
        return ended

    def report(self, kind: str, line: str) -> None:
        """Take note of something that was not as promised."""
        self.problems.append((kind, f"start {self.starts}: {line}"))

    def expect(self, ended: Ended, status: int | tuple[int, ...], said: str = "", rank: int = 0) -> None:
        """A rank ended with this status, and said this."""
        if ended.status[rank] is not None and ended.status[rank] not in ((status,) if isinstance(status, int) else status):
            self.report("unclear ends", f"rank {rank} ended with {ended.status[rank]} and not {status}: {last_line(ended.said[rank])}")
        elif said and said not in ended.said[rank]:
            self.report("unclear ends", f"rank {rank} did not say {said!r}: {last_line(ended.said[rank])}")

    def newest(self) -> int:
        """Step of the newest whole checkpoint, 0 if there is none."""
        from aer_lightning.checkpoints.folder import newest

        found = newest(self.run_dir / "checkpoints")
        return found[1]["step"] if found is not None else 0

    def check_kept(self, ended: Ended, step: int) -> None:
        """The checkpoint of this step, or a later one, is there and whole."""
        newest = self.newest()
        if newest < step:
            self.report("lost", f"the newest whole checkpoint is of step {newest}, promised is step {step}")
        self.lost += max(0, ended.steps() - newest)

    def finish(self, *extra: str) -> None:
        """Go on to the end, which has to be that of the undisturbed run, with nothing temporary left."""
        ended = self.end(self.start(*extra))
        for rank in range(self.setting.world):
            self.expect(ended, 0, rank=rank)
        if ended.status == [0] * self.setting.world:
            self.compare()

    def compare(self) -> None:
        """Everything that the run left is what an undisturbed one leaves."""
        try:
            found = outcome(self.run_dir)
        except Exception as error:
            self.report("inexact", f"the end cannot be read: {type(error).__name__}: {error}")
            return
        if wrong := [name for name, digest in self.reference.outcome.items() if found[name] != digest]:
            self.report("inexact", f"not those of the undisturbed run: {', '.join(wrong)}")
        if left := leftovers(self.run_dir, self.scratch):
            self.report("left behind", f"files: {', '.join(left)}")
        if self.shared == set() and (left := os.listdir(SHARED_MEMORY)):  # empty at first: this trial's own
            self.report("left behind", f"in shared memory: {', '.join(left)}")


def last_line(said: str) -> str:
    lines = [line for line in said.strip().splitlines() if line.strip()]
    return lines[-1][:200] if lines else "nothing"


def describe(trial: Trial, name: str, did: str, seconds: float) -> dict[str, Any]:
    """A trial as a row of the report."""
    return {
        "trial": name,
        "setting": trial.setting.name,
        "strategy": trial.setting.strategy,
        "engine": trial.setting.engine,
        "did": did,
        "starts": trial.starts,
        "steps_again": trial.lost,
        "seconds": round(seconds, 1),
        "problems": [list(problem) for problem in trial.problems],
    }
