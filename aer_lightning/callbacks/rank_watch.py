"""Ranks look after one another: one that was killed or stopped ends the run on all of them, in one line, and not after half an hour."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from aer_lightning.errors import ConfigError
from aer_lightning.launch import cluster, process_rank

KEY = "aer_lightning/alive"
DONE = "done"
BROKEN = ("gloo", "NCCL", "ProcessGroup", "Connection closed by peer", "Connection reset by peer")


class RankWatch(pl.Callback):
    """Ends this process when another rank has given no sign of life for a while, as one killed or stopped gives none.

    A thread of each rank counts up a number in the process group's store and reads those of the others; whatever the main thread waits
    for, a collective or a generation, does not matter. A rank that ends by itself says so, and is not missed.

    Args:
        timeout: seconds without a sign of life.

    Raises:
        ConfigError: ``timeout`` is not positive.
    """

    def __init__(self, timeout: float = 45.0) -> None:
        if not timeout > 0:
            raise ConfigError(f"rank_timeout: must be above 0 seconds, got {timeout}")
        self.timeout = timeout
        self._watch: Watch | None = None
        self._begun = threading.Event()
        if process_rank() != 0 and cluster() is None:
            threading.Thread(target=self._look_at_parent, args=(os.getppid(),), daemon=True, name="rank-watch").start()

    def _look_at_parent(self, parent: int) -> None:
        while not self._begun.wait(1.0):
            if os.getppid() != parent:
                rank = process_rank()
                print(
                    f"error: rank 0 has gone before training began; rank {rank} ends, go on with --resume auto", file=sys.stderr, flush=True
                )
                os._exit(1)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin, where there are other ranks."""
        self._begun.set()
        if trainer.world_size > 1 and dist.is_initialized() and self._watch is None:
            self._watch = Watch(self.timeout, lambda: end_started_ranks(trainer))
            self._watch.start()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """This rank ends by itself; where a collective broke because another one has gone, that one is named first."""
        if self._watch is not None and isinstance(exception, RuntimeError) and any(word in str(exception) for word in BROKEN):
            self._watch.wait_for_verdict()
        self._end()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The run is over."""
        self._end()

    def _end(self) -> None:
        if self._watch is not None:
            self._watch.end()
            self._watch = None


class Watch:
    """The two threads of a rank: one talks to the store, which may hang when the rank that holds it does; one looks at the clock.

    Args:
        timeout: seconds without a sign of life.
        last: done before this process is ended.
    """

    def __init__(self, timeout: float, last: Callable[[], None] = lambda: None) -> None:
        self.timeout, self.period, self.last = timeout, min(5.0, timeout / 6), last
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        # A connection of its own: the main thread may wait for the store, too.
        shared: Any = dist.distributed_c10d._get_default_store()
        self.store = shared.clone()
        self.store.set_timeout(timedelta(seconds=timeout))
        self._over = threading.Event()
        self._counts = dict.fromkeys(range(self.world), b"")  # of fixed size: one thread writes while another goes through it
        self._seen = dict.fromkeys(range(self.world), time.monotonic())
        self._threads = [threading.Thread(target=f, daemon=True, name="rank-watch") for f in (self._talk, self._look)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Tell the others that this rank ends by itself; waits a moment for it."""
        self._over.set()
        self._threads[0].join(timeout=2.0)

    def wait_for_verdict(self) -> None:
        """Wait while it shows which rank is missing, which ends this process; return when none is, or one has ended by itself."""
        end = time.monotonic() + self.timeout + 2 * self.period
        while time.monotonic() < end and DONE.encode() not in self._counts.values():
            time.sleep(0.1)

    def _talk(self) -> None:
        beat = 0
        try:
            while not self._over.is_set():
                beat += 1
                self.store.set(f"{KEY}/{self.rank}", str(beat))
                for other in range(self.world):
                    if other != self.rank and self.store.check([f"{KEY}/{other}"]):
                        count = self.store.get(f"{KEY}/{other}")
                        if count != self._counts[other] or count == DONE.encode():
                            self._counts[other], self._seen[other] = count, time.monotonic()
                self._seen[self.rank] = time.monotonic()
                self._over.wait(self.period)
            self.store.set(f"{KEY}/{self.rank}", DONE)
        except RuntimeError:  # the store's rank has gone; the clock goes on
            return

    def _look(self) -> None:
        before = time.monotonic()
        while not self._over.wait(self.period):
            now = time.monotonic()
            if now - before > 3 * self.period:  # it was this process that was stopped
                self._seen = dict.fromkeys(range(self.world), now)
            before = now
            silent = [rank for rank, seen in self._seen.items() if now - seen > self.timeout]
            if not silent:
                continue
            # Where the store does not answer, nobody has been heard of: its rank, zero, is the one that is missing.
            missing = 0 if self.rank in silent else silent[0]
            line = f"error: rank {missing} of {self.world} has given no sign of life for {self.timeout:g} s; rank {self.rank} ends"
            print(f"{line}, go on with --resume auto", file=sys.stderr, flush=True)
            self.last()
            os._exit(1)


def end_started_ranks(trainer: pl.Trainer) -> None:
    """Kill the ranks that Lightning started from this process; those of torchrun or srun are their launcher's."""
    if isinstance(launcher := trainer.strategy.launcher, _SubprocessScriptLauncher):
        for process in launcher.procs:
            process.kill()
