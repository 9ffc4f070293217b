"""A pool of killable worker processes: each answer has a wall-clock limit, and only the worker that exceeds it dies for it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from aer_lightning.data.rewards.base import Grade, Grader, Outcome
from aer_lightning.data.rewards.wire import receive_frame, send_frame, take_frame
from aer_lightning.errors import ConfigError, UserError

_START_S = 120.0  # importing sympy on a busy machine
_MAX_CHARS = 1_000_000  # of a completion that travels to a worker, from its end
_MAX_FAILED_STARTS = 5
_TASKS_PER_WORKER = 5_000  # then it is replaced, so that caches and fragments do not add up


class VerifierError(UserError):
    """The worker processes cannot be started or keep dying."""


class _NurseryDied(VerifierError):
    """The process that forks the workers is gone; a new one can be started."""


class _Worker:
    """One worker as the pool sees it: a socket, a process number once it has said hello, and the request it is busy with."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.buffer = bytearray()
        self.pid: int | None = None
        self.deadline = time.monotonic() + _START_S
        self.item: int | None = None
        self.tasks = 0


class VerifierPool:
    """Runs a grader in ``workers`` processes.

    Args:
        grader: what grades; it is pickled once, into the nursery that forks the workers.
        workers: processes, each with one answer at a time.
        timeout_s: wall-clock seconds for one answer; the worker is then killed and replaced, and the outcome is ``timeout``.
        memory_mb: address space of a worker, in MiB; an answer that needs more has the outcome ``error``.

    Processes are started at the first use. Calls from several threads take turns. In a forked child the pool starts anew.
    """

    def __init__(self, grader: Grader, workers: int = 2, timeout_s: float = 5.0, memory_mb: int = 1024):
        if workers < 1:
            raise ConfigError(f"workers: {workers} is not positive")
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s: {timeout_s} is not positive")
        if memory_mb < 256:
            raise ConfigError(f"memory_mb: {memory_mb} is too little for sympy; give at least 256")
        self.grader, self.workers, self.timeout_s, self.memory_mb = grader, workers, timeout_s, memory_mb
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._pool: list[_Worker] = []
        self._selector: selectors.BaseSelector | None = None
        self._owner = os.getpid()
        self._failed_starts = 0
        self._repeated: set[int] = set()  # answers of this call that were given to a second worker
        self._finalizer: weakref.finalize[Any, Any] | None = None

    # ---- life

    def start(self) -> None:
        """Start the processes and wait until the grader is loaded. Idempotent. Raises VerifierError."""
        with self._lock:
            self._start()

    def close(self) -> None:
        """End all processes. Idempotent; the next use starts them again."""
        with self._lock:
            self._close()

    def __enter__(self) -> VerifierPool:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pids(self) -> list[int]:
        """Process numbers of the nursery and of the workers that are up."""
        nursery = [self._nursery.pid] if self._nursery else []
        return nursery + [worker.pid for worker in self._pool if worker.pid is not None]

    def _start(self) -> None:
        if self._owner != os.getpid():  # a forked child has copies of the sockets, but the processes are its parent's
            self._forget()
        if self._nursery is not None:
            if self._nursery.poll() is None:
                return
            self._close()
        try:
            pickled = pickle.dumps({"grader": self.grader, "memory_mb": self.memory_mb})
        except Exception as error:  # pickle raises what the object's own hooks raise
            raise ConfigError(f"grader: {type(self.grader).__name__} cannot be sent to a worker process: {error}") from error
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[3])
        paths = [root, *(path or os.getcwd() for path in sys.path if path != root)]
        code = f"from aer_lightning.data.rewards.worker import main; main({theirs.fileno()}, {os.getpid()})"
        errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed below; a pipe could fill up and block the nursery
        with theirs, errors:
            self._nursery = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # the terminal's signals are for the trainer
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"},
            )
            theirs.close()
            self._control = ours
            self._finalizer = weakref.finalize(self, _shut_down, self._nursery, ours, os.getpid())
            ours.settimeout(_START_S)
            try:
                send_frame(ours, pickled)
                answer = receive_frame(ours)
            except OSError:
                answer = None
            if answer != b"ready":
                self._nursery.kill()
                self._nursery.wait()
                errors.seek(0)
                lines = errors.read().decode(errors="replace").strip().splitlines()
                self._close()
                raise VerifierError(f"the verifier's processes did not start: {lines[-1] if lines else 'no answer'}")
        self._selector = selectors.DefaultSelector()
        for _ in range(self.workers):
            self._spawn()
        for worker in self._pool:
            self._greet(worker)

    def _forget(self) -> None:
        """Drop what belongs to another process without ending it."""
        for worker in self._pool:
            worker.sock.close()
        if self._control is not None:
            self._control.close()
        if self._selector is not None:
            self._selector.close()
        if self._finalizer is not None:
            self._finalizer.detach()
        self._reset()

    def _close(self) -> None:
        if self._owner == os.getpid() and self._finalizer is not None:
            self._finalizer()
        self._forget()

    # ---- workers

    def _spawn(self) -> None:
        assert self._control is not None and self._selector is not None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"W\0\0\0\0"], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise _NurseryDied(f"the verifier's nursery process died: {error}") from error
        worker = _Worker(ours)
        ours.settimeout(max(self.timeout_s, 1.0))
        self._pool.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _greet(self, worker: _Worker) -> None:
        """Wait for the hello of a new worker, so that a failure to start is found here and not in the first batch."""
        try:
            hello = receive_frame(worker.sock)
            worker.pid = int(json.loads(hello)["pid"]) if hello else None
        except OSError:
            pass  # it is slow; the loop waits for it until its own deadline

    def _discard(self, worker: _Worker, replace: bool = True) -> None:
        """Kill a worker and start another in its place."""
        assert self._control is not None and self._selector is not None
        self._pool.remove(worker)
        self._selector.unregister(worker.sock)
        worker.sock.close()
        if worker.pid is not None:
            with contextlib.suppress(OSError):  # if the nursery is gone, so is the worker
                self._control.sendall(b"K" + worker.pid.to_bytes(4, "big"))
        if replace:
            self._spawn()

    # ---- work

    def grade(self, items: Sequence[tuple[Any, ...]]) -> list[Grade]:
        """Grade ``(completion, gold answer, ...)`` tuples, the arguments of the grader's ``grade``; verdicts in the same order."""
        replies = self._run("grade", [(str(completion)[-_MAX_CHARS:], *rest) for completion, *rest in items])
        return [self._to_grade(reply) for reply in replies]

    def check_golds(self, answers: Sequence[Any]) -> list[str | None]:
        """For each gold answer the reason why it cannot be graded against, or None."""
        replies = self._run("check", [(answer,) for answer in answers])
        return [reply.get("error", reply.get("reason")) for reply in replies]

    def _to_grade(self, reply: dict[str, Any]) -> Grade:
        ms = float(reply.get("ms", 0.0))
        if reply.get("timeout"):
            return Grade(Outcome.TIMEOUT, None, reply["error"], ms)
        if "error" in reply:
            return Grade(Outcome.ERROR, None, reply["error"], ms)
        try:
            return Grade(Outcome(reply["outcome"]), reply["extracted"], reply["reason"], ms, reply["score"], reply["parts"])
        except ValueError as error:
            return Grade(Outcome.ERROR, None, str(error), ms)

    def _run(self, operation: str, arguments: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
        if not arguments:
            return []
        with self._lock:
            try:
                self._start()
                try:
                    return self._loop(operation, arguments)
                except _NurseryDied:  # killed from outside, by the kernel when memory is short among others: once is forgiven
                    self._close()
                    self._start()
                    return self._loop(operation, arguments)
            except BaseException:  # an interrupt among others: answers in flight would be taken for those of the next call
                self._close()
                raise

    def _loop(self, operation: str, arguments: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
        assert self._selector is not None
        results: list[dict[str, Any] | None] = [None] * len(arguments)
        waiting = deque(range(len(arguments)))
        self._repeated = set()
        open_items = len(arguments)
        while open_items:
            for worker in list(self._pool):
                if waiting and worker.pid is not None and worker.item is None:
                    self._assign(worker, waiting, operation, arguments)
            deadline = min((w.deadline for w in self._pool if w.pid is None or w.item is not None), default=0.0)
            for key, _ in self._selector.select(max(deadline - time.monotonic(), 0.0)):
                open_items -= self._read(key.data, results, waiting)
            now = time.monotonic()
            for worker in [w for w in self._pool if w.deadline <= now and (w.pid is None or w.item is not None)]:
                if worker.item is None:
                    self._failed_start("no answer")
                elif _is_stopped(worker.pid) and self._once_more(worker.item, waiting):
                    pass  # somebody stopped it from outside, which is no fault of this answer
                else:
                    reason = f"no verdict within {self.timeout_s:g} s"
                    results[worker.item] = {"timeout": True, "error": reason, "ms": (now - worker.deadline + self.timeout_s) * 1000}
                    open_items -= 1
                self._discard(worker)
        return [result for result in results if result is not None]

    def _assign(self, worker: _Worker, waiting: deque[int], operation: str, arguments: Sequence[tuple[Any, ...]]) -> None:
        if worker.tasks >= _TASKS_PER_WORKER:
            self._discard(worker)
            return
        item = waiting.popleft()
        worker.item = item
        worker.tasks += 1
        worker.deadline = time.monotonic() + self.timeout_s
        try:
            send_frame(worker.sock, pickle.dumps((operation, arguments[item])))
        except OSError:  # it died while idle, which is no fault of this answer
            waiting.appendleft(item)
            worker.item = None
            self._failed_start("a worker died while idle")
            self._discard(worker)

    def _read(self, worker: _Worker, results: list[dict[str, Any] | None], waiting: deque[int]) -> int:
        """Take what a worker has sent; returns the number of answers that are decided by it."""
        if worker not in self._pool:
            return 0
        try:
            chunk = worker.sock.recv(1 << 16)
            worker.buffer += chunk
            frame = take_frame(worker.buffer)
            reply = json.loads(frame) if frame is not None else None
        except (OSError, ValueError):
            chunk, reply = b"", None
        if not chunk:
            item = worker.item
            self._discard(worker)
            if item is None:
                self._failed_start("a worker died")
                return 0
            if self._once_more(item, waiting):
                return 0
            results[item] = {"error": "the worker process died twice over this answer (out of memory, or a crash in native code)"}
            return 1
        if reply is None:
            return 0
        if worker.pid is None:
            worker.pid = int(reply["pid"])
            return 0
        self._failed_starts = 0
        if worker.item is None:
            return 0
        results[worker.item] = reply
        worker.item = None
        return 1

    def _once_more(self, item: int, waiting: deque[int]) -> bool:
        """Put an answer whose worker was lost back, once: killed from outside, another worker's verdict is what it would have been."""
        if item in self._repeated:
            return False
        self._repeated.add(item)
        waiting.appendleft(item)
        return True

    def _failed_start(self, reason: str) -> None:
        self._failed_starts += 1
        if self._failed_starts > _MAX_FAILED_STARTS:
            raise VerifierError(f"the verifier's workers keep dying before they grade ({reason}); is memory_mb {self.memory_mb} enough?")


def _is_stopped(pid: int | None) -> bool:
    """Whether a process has been stopped by a signal; False where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "Tt"
    except OSError:
        return False


def _shut_down(nursery: subprocess.Popen[bytes], control: socket.socket, owner: int) -> None:
    """End the nursery, and with it the workers. Runs at the latest when the interpreter exits."""
    if os.getpid() != owner:
        return
    control.close()
    try:
        nursery.wait(timeout=5.0)
    except subprocess.TimeoutExpired:
        nursery.kill()
        nursery.wait()
