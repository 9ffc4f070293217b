"""The worker's side of :class:`~aer_lightning.data.engines.worker_process.WorkerProcess`. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Protocol


class Worker(Protocol):
    """What answers the calls."""

    def handle(self, command: str, payload: Any) -> Any:
        """Run one command; an iterator as result is sent item by item as they come."""
        ...


def serve(build: Callable[[dict[str, Any]], Worker]) -> None:
    """Build the worker from the settings that come first, then answer calls until the parent sends None, closes the pipe or dies."""
    pipe, parent, folder = Connection(int(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
    # Ctrl-C goes to the whole group of processes: the parent decides what it means, and ends us by closing the pipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(parent, folder), daemon=True).start()
    try:
        settings = pipe.recv()
    except EOFError:
        return
    worker = _answer(pipe, lambda: (build(settings), None))
    while worker is not None:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            break
        if message is None:
            break
        command, payload = message
        _answer(pipe, partial(_handle, worker, command, payload))
    sys.stdout.flush()
    sys.stderr.flush()
    # the engine's own shutdown takes seconds and frees only what ends with the process
    os._exit(0)


def _handle(worker: Worker, command: str, payload: Any) -> tuple[Any, Any]:
    return True, worker.handle(command, payload)


def _answer(pipe: Connection, work: Callable[[], tuple[Any, Any]]) -> Any:
    """Run ``work``, send its second value or the reason of its failure, and return its first (None after a failure).

    Messages are (kind, value): True ends with a value, False with a reason, None is an item of an iterator.
    """
    try:
        kept, value = work()
        if isinstance(value, Iterator):
            for item in value:
                pipe.send((None, item))
            value = None
    except Exception as error:  # whatever it was, the parent has to hear of it: it waits for an answer
        traceback.print_exc()
        sys.stderr.flush()
        with contextlib.suppress(OSError):  # it may be the parent that has gone
            pipe.send((False, f"{type(error).__name__}: {error}".strip()))
        return None
    pipe.send((True, value))
    return kept


def _end_with_parent(parent: int, folder: str) -> None:
    """A parent that was killed closes nothing behind it where another child of its holds the pipe too: look for it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
