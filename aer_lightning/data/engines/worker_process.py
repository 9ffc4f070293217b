"""A child process that answers one call at a time over a pipe, dies with its parent, and says why when it fails."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import aer_lightning
from aer_lightning.temporary import own_folder

# what a launcher sets for the trainer's process group; a child that saw it would wait for the group
_LAUNCHER_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME"),
    *("ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"),
)


class WorkerError(RuntimeError):
    """The worker raised, or ended; ``reason`` is one line, the message has the end of its log too."""

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(reason + (f"\nthe worker's last lines:\n{log}" if log else ""))
        self.reason = reason


class WorkerGone(WorkerError):
    """The worker has ended, or did not answer in time and was killed."""


class WorkerProcess:
    """``python -m module FD``: it receives ``settings`` first, then (command, payload) pairs, and answers each with (ok, value).

    The process starts at once and works beside its parent; the first :meth:`call` waits for it. ``folder`` is a private
    directory with its log.

    Args:
        module: module to run; its side of the pipe is :func:`serve`.
        settings: first object sent.
        environment: variables to set; None removes one.
        inherit: file descriptors that the child keeps under the same numbers.
    """

    def __init__(self, module: str, settings: dict[str, Any], environment: dict[str, str | None], inherit: Sequence[int] = ()) -> None:
        self.folder = own_folder()
        self.log = self.folder / "worker.log"
        inherited = {name: value for name, value in os.environ.items() if name not in _LAUNCHER_VARIABLES}
        root = str(Path(aer_lightning.__file__).parent.parent)
        inherited["PYTHONPATH"] = os.pathsep.join(part for part in (root, inherited.get("PYTHONPATH", "")) if part)
        inherited["TMPDIR"] = str(self.folder)  # vLLM leaves files there, which go with the folder
        for name, value in environment.items():
            if value is None:
                inherited.pop(name, None)
            else:
                inherited[name] = value
        self._pipe, theirs = Pipe()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid()), str(self.folder)],
                pass_fds=(theirs.fileno(), *inherit),
                env=inherited,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        theirs.close()
        self._ready = False
        self._streaming = False  # items of a stream that nobody reads any more may still come
        self._finalizer = weakref.finalize(self, _end, self._process, self._pipe, self.folder, os.getpid())
        self._pipe.send(settings)

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    def wait(self, seconds: float | None = None) -> None:
        """Return once the worker is ready.

        Args:
            seconds: the longest to wait; None for no limit, here and below.

        Raises:
            WorkerError: it could not start, or not in time.
        """
        if not self._ready:
            self._receive("start", seconds)
            self._ready = True

    def call(self, command: str, payload: Any = None, seconds: float | None = None) -> Any:
        """Run one command and return its value.

        Raises:
            WorkerError: the command raised in the worker, or the worker ended or did not answer within ``seconds``.
        """
        self._send(command, payload, seconds)
        return self._receive(command, seconds)[1]

    def stream(self, command: str, payload: Any = None, seconds: float | None = None) -> Iterator[Any]:
        """Run one command whose result is an iterator; yield its items as they come.

        Left before its end, the worker still finishes it, and the next command waits for that.

        Raises:
            WorkerError: the command raised in the worker, or the worker ended or was silent for ``seconds``.
        """
        self._send(command, payload, seconds)
        self._streaming = True
        while True:
            more, item = self._receive(command, seconds)
            if not more:
                return
            yield item

    def _send(self, command: str, payload: Any, seconds: float | None) -> None:
        self.wait(seconds)
        while self._streaming:
            self._receive("the stream before it", seconds)
        try:
            self._pipe.send((command, payload))
        except OSError as error:
            raise self._ended() from error

    def close(self) -> None:
        """End the worker and remove its folder. Idempotent."""
        self._finalizer()

    def _receive(self, command: str, seconds: float | None) -> tuple[bool, Any]:
        """The next message: whether more will come, and its value."""
        end = math.inf if seconds is None else time.monotonic() + seconds
        while not self._pipe.poll(max(0.0, min(1.0, end - time.monotonic()))):
            if self._process.poll() is not None and not self._pipe.poll(0):
                raise self._ended()
            if time.monotonic() >= end:
                # By force: one that was stopped, or hangs in the driver, hears nothing else.
                self._process.kill()
                raise WorkerGone(f"no answer to {command} within {seconds:g} s; the worker was killed", self._last_lines())
        try:
            kind, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if kind is not None:
            self._streaming = False
        if kind is False:
            raise WorkerError(value, self._last_lines())
        return kind is None, value

    def _ended(self) -> WorkerGone:
        # its end of the pipe closes a moment before its status can be read
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        return WorkerGone(f"the worker has ended (exit status {self._process.returncode})", self._last_lines())

    def _last_lines(self, most: int = 15) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-most:])
        except OSError:
            return ""


def _end(process: subprocess.Popen[bytes], pipe: Any, folder: Path, owner: int) -> None:
    """Close the pipe, which ends the worker; use force if it does not end. Does nothing in a fork of the owner."""
    if os.getpid() != owner:
        return
    with contextlib.suppress(OSError):  # it may have ended already
        pipe.send(None)  # a fork of ours may hold the pipe too, so that closing it would say nothing
    pipe.close()
    for stop in (lambda: None, process.terminate, process.kill):
        stop()
        try:
            process.wait(timeout=5)
            break
        except subprocess.TimeoutExpired:
            continue
    shutil.rmtree(folder, ignore_errors=True)
