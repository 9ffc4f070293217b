"""Signals that ask a run to stop: the first sets a flag that is acted on at a step's end, the second stops at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

# SIGUSR1 is what SLURM's --signal=USR1@90 sends before the time of a job is up.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Stopped(BaseException):
    """A run stops because it was asked to; the message is what its user has to know.

    Args:
        signum: number of the signal.
        message: what is printed; empty for nothing, a line of its own if left out.
        status: exit status of the process; 128 + ``signum`` if left out.
    """

    def __init__(self, signum: int, message: str | None = None, status: int | None = None) -> None:
        super().__init__(f"stopped by {name_of(signum)}; nothing had been trained" if message is None else message)
        self.signum = signum
        self.status = 128 + signum if status is None else status


def name_of(signum: int) -> str:
    """Such as SIGTERM."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


class StopRequest:
    """Whether somebody asked this process to stop, and how that is answered.

    Attributes:
        signum: the first signal, None as long as there was none.
        since: when it came, by ``time.monotonic``.
        event: set with it.
        deferred: whether the run stops by itself at the next step's end; otherwise the handler raises ``Stopped`` where it is.
        last_resort: what the second signal does before the process ends.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.since = 0.0
        self.event = threading.Event()
        self.deferred = False
        self.last_resort: Callable[[], None] = lambda: None
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Take over the signals, in the main thread; those that the process was started to ignore (nohup) stay ignored."""
        if self._previous or threading.current_thread() is not threading.main_thread():
            return
        self.signum, self.deferred, self.last_resort = None, False, lambda: None
        self.event.clear()
        for signum in SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, self._handle)

    def uninstall(self) -> None:
        """Put back the handlers that were there before."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}

    def ask(self, signum: int) -> None:
        """Ask to stop as a signal would, without being one: another rank had it."""
        if self.signum is None:
            self.signum, self.since = signum, time.monotonic()
            self.event.set()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.ask(signum)
            if not self.deferred:
                raise Stopped(signum)
            _say(f"{name_of(signum)}: the run stops at the end of this optimizer step; once more stops it at once")
        else:
            _say(f"{name_of(signum)}: stopped at once")
            self.last_resort()
            os._exit(128 + signum)


def _say(text: str) -> None:
    # Not print: the handler may have interrupted a print.
    os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, f"{text}\n".encode())


REQUEST = StopRequest()
