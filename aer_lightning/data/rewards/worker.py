"""The processes in which answers are graded: one nursery, started fresh by the pool, that forks a worker whenever one is wanted.

The nursery is a new interpreter (nothing of the training process is in it, torch least of all) with one thread. It imports what the
grader needs once; a worker forked from it is ready in milliseconds, so that a killed one is replaced at almost no cost. Workers talk to
the pool directly. Replies are JSON: a worker that model text has taken over must not be able to make the trainer unpickle anything.

Nothing outlives the trainer, however it dies: the nursery ends when its control socket closes or its parent changes, and takes its
workers along; a worker is killed by the kernel when the nursery is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import os
import pickle
import select
import signal
import socket
import sys
import time
from typing import Any

from aer_lightning.data.rewards.wire import receive_frame, send_frame

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.5


def main(control_fd: int, parent_pid: int) -> None:
    """Run the nursery on the control socket ``control_fd`` until the process ``parent_pid`` closes it or dies."""
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which then closes the pool
    logging.disable(logging.CRITICAL)  # math-verify logs every answer that it cannot read
    first = receive_frame(control)
    if first is None:
        return
    settings = pickle.loads(first)
    grader, memory_mb = settings["grader"], settings["memory_mb"]
    if hasattr(grader, "warm_up"):
        grader.warm_up()
    gc.collect()
    gc.freeze()  # the pages of what is imported stay shared with the workers
    send_frame(control, b"ready")
    children: set[int] = set()
    try:
        _serve(control, parent_pid, grader, memory_mb, children)
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _serve(control: socket.socket, parent_pid: int, grader: Any, memory_mb: int, children: set[int]) -> None:
    while True:
        _reap(children)
        readable = select.select([control], [], [], _POLL_S)[0]
        if os.getppid() != parent_pid:
            return
        if not readable:
            continue
        command, fds, _, _ = socket.recv_fds(control, 5, 1)
        while command and len(command) < 5:  # a command is always 5 bytes, but a stream may deliver it in pieces
            command += control.recv(5 - len(command))
        if not command:
            return
        if command[:1] == b"W":
            nursery = os.getpid()
            pid = os.fork()
            if pid == 0:
                control.close()
                children.clear()
                _work(socket.socket(fileno=fds[0]), grader, memory_mb, nursery)
            children.add(pid)
            os.close(fds[0])
        elif (target := int.from_bytes(command[1:], "big")) in children:  # not yet reaped, so the number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL)


def _reap(children: set[int]) -> None:
    while children:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            children.clear()
            return
        if pid == 0:
            return
        children.discard(pid)


def _limit(memory_mb: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))


def _work(sock: socket.socket, grader: Any, memory_mb: int, nursery: int) -> None:
    """Grade until the pool hangs up. Never returns."""
    status = 1
    try:
        if sys.platform.startswith("linux"):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != nursery:  # it died before the line above
            os._exit(1)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        _limit(memory_mb)
        send_frame(sock, json.dumps({"pid": os.getpid()}).encode())
        while (frame := receive_frame(sock)) is not None:
            send_frame(sock, json.dumps(_answer(grader, frame)).encode())
        status = 0
    finally:
        os._exit(status)  # no clean-up that belongs to the nursery


def _answer(grader: Any, frame: bytes) -> dict[str, Any]:
    """Verdict on one request as plain values."""
    start = time.perf_counter()
    try:
        operation, arguments = pickle.loads(frame)
        if operation == "check":
            reason = grader.check_gold(*arguments)
            return {"reason": None if reason is None else str(reason)[:500]}
        grade = grader.grade(*arguments)
        return {
            "outcome": grade.outcome.value,
            "extracted": None if grade.extracted is None else str(grade.extracted)[:2000],
            "reason": str(grade.reason)[:500],
            "score": None if grade.score is None else float(grade.score),
            "parts": {str(name): float(score) for name, score in grade.parts.items()},
            "ms": (time.perf_counter() - start) * 1000,
        }
    except MemoryError:
        gc.collect()
        return {"error": "out of memory", "ms": (time.perf_counter() - start) * 1000}
    except BaseException as error:  # whatever a parser raises on hostile text, the worker goes on with the next answer
        return {"error": f"{type(error).__name__}: {str(error)[:200]}", "ms": (time.perf_counter() - start) * 1000}
