"""Runs of the command line as forks of a process that has imported everything: what `python -m aer_lightning` costs in imports is spared.

A rank is a fork that sets what a launcher sets (torchrun's variables), runs the command, and ends as an interpreter ends. It writes down
what it does: a line for each finished optimizer step, for each checkpoint that got its name, and for each thing it does to a file.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_rank import Fault, be_a_rank

_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Ended:
    """How a run ended.

    Attributes:
        status: of each rank, as a shell says it: minus the signal for one that was killed; None for one that had not ended in time.
        said: what each rank wrote to its streams.
        events: what each rank wrote down, as words.
        seconds: until the last had ended.
        left: processes that were still there afterwards, each by its command.
    """

    status: list[int | None]
    said: list[str]
    events: list[list[list[str]]]
    seconds: float
    left: list[str] = field(default_factory=list)

    def steps(self) -> int:
        """Optimizer steps that were finished, on rank zero."""
        return max((int(words[1]) for words in self.events[0] if words[0] == "step"), default=0)

    def saved(self) -> int:
        """Step of the newest checkpoint that got its name."""
        return max((int(words[1]) for words in self.events[0] if words[0] == "saved"), default=0)

    def happened(self) -> bool:
        """Whether the fault's moment came before the run's end."""
        return any(words[0] == "fault" for rank in self.events for words in rank)


def become_reaper() -> None:
    """Orphans among the descendants become children of this process, which can then say who was left behind."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> dict[int, str]:
    """Processes below one that are not zombies, with their commands."""
    parents: dict[int, tuple[int, str]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        parents[int(path.name)] = (int(parent), "" if state in "ZX" else command or "?")
    found = {pid}
    while more := {child for child, (parent, _) in parents.items() if parent in found} - found:
        found |= more
    return {child: parents[child][1] for child in found - {pid} if parents[child][1]}


def reap() -> None:
    """Collect children that have ended and that nobody waits for."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def end_all(pid: int) -> None:
    """Kill whatever is below a process."""
    for child in descendants(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def torchrun(world: int) -> list[dict[str, str]]:
    """Variables of each of `world` ranks on this machine, as torchrun sets them; none for one process."""
    if world == 1:
        return [{}]
    common = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1, "ROLE_WORLD_SIZE": world}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "TORCHELASTIC_RUN_ID": "chaos", "ROLE_NAME": "default"}
    common |= {"TORCHELASTIC_USE_AGENT_STORE": False, "TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_MAX_RESTARTS": 0}
    common |= {"GLOO_SOCKET_IFNAME": "lo"}
    ranks = [common | {"RANK": i, "LOCAL_RANK": i, "ROLE_RANK": i} for i in range(world)]
    return [{name: str(value) for name, value in rank.items()} for rank in ranks]


class Run:
    """One start of the command line: a fork for each rank.

    Args:
        arguments: of the command.
        folder: where streams and notes go, made.
        run_dir: the run's folder; what happens to its files is counted.
        scratch: the run's temporary folder.
        world: ranks.
        faults: by rank.
    """

    def __init__(
        self, arguments: Sequence[Any], folder: Path, run_dir: Path, scratch: Path, world: int = 1, faults: dict[int, Fault] | None = None
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self.world, self.started = folder, world, time.monotonic()
        self.status: list[int | None] = [None] * world
        self.pids: list[int] = []
        self._told: float | None = None
        self._forced = False
        sys.stdout.flush()
        sys.stderr.flush()
        for rank, variables in enumerate(torchrun(world)):
            pid = os.fork()
            if pid == 0:
                try:
                    be_a_rank([str(a) for a in arguments], folder, run_dir, scratch, rank, variables, (faults or {}).get(rank))
                finally:
                    os._exit(70)
            self.pids.append(pid)

    def poll(self, without: frozenset[int] = frozenset()) -> bool:
        """Whether all ranks have ended, but those in `without`."""
        for rank, pid in enumerate(self.pids):
            if self.status[rank] is None:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.status[rank] = os.waitstatus_to_exitcode(status)
        return all(status is not None or rank in without for rank, status in enumerate(self.status))

    def events(self, rank: int = 0) -> list[list[str]]:
        """What a rank has written down by now."""
        path = self.folder / f"events.{rank}"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, word: str, seconds: float, rank: int = 0) -> bool:
        """Wait until a rank has written down a word; False if it ended before or time is up."""
        end = time.monotonic() + seconds
        while not any(words[0] == word for words in self.events(rank)):
            if self.poll() or time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def wait(self, seconds: float, settle: float = 10.0, without: frozenset[int] = frozenset()) -> Ended:
        """Wait for the end; after `seconds` all are killed. Then up to `settle` seconds for what the ranks had started to end, too.

        Args:
            seconds: from the start.
            settle: for other processes.
            without: ranks that were stopped and cannot end; they are killed when the others have.
        """
        end = self.started + seconds
        while not self.poll(without) and time.monotonic() < end:
            self._be_the_agent()
            time.sleep(0.01)
        took = time.monotonic() - self.started
        hung = [status is None and rank not in without for rank, status in enumerate(self.status)]
        for rank, pid in enumerate(self.pids):
            if self.status[rank] is None:
                os.kill(pid, signal.SIGKILL)
        while not self.poll():
            time.sleep(0.01)
        end = time.monotonic() + settle
        while (left := descendants(os.getpid())) and time.monotonic() < end:
            time.sleep(0.05)
            reap()
        end_all(os.getpid())
        said = [(self.folder / f"said.{rank}").read_text(errors="replace") for rank in range(self.world)]
        status = [None if hung[rank] else self.status[rank] for rank in range(self.world)]
        return Ended(status, said, [self.events(rank) for rank in range(self.world)], took, sorted(left.values()))

    def _be_the_agent(self) -> None:
        """Where a rank ended before training began, the others get SIGTERM and 30 s later SIGKILL, as torchrun does it.

        Later nobody tells them: they find out by themselves.
        """
        if not any(self.status) or any(words[0] == "step" for rank in range(self.world) for words in self.events(rank)):
            return
        since, now = self._told, time.monotonic()
        if since is None or (now - since > 30 and not self._forced):
            self._told, self._forced = now, since is not None
            for rank, pid in enumerate(self.pids):
                if self.status[rank] is None:
                    os.kill(pid, signal.SIGKILL if self._forced else signal.SIGTERM)
