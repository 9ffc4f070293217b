"""A run that is asked to stop finishes its optimizer step, saves, and says how to go on."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from aer_lightning.callbacks.checkpoint import RolloutCheckpoint
from aer_lightning.callbacks.rank_watch import end_started_ranks
from aer_lightning.callbacks.run_files import run_folder
from aer_lightning.distributed import max_over_ranks
from aer_lightning.errors import ConfigError
from aer_lightning.rollout import RolloutBatch
from aer_lightning.signals import REQUEST, Stopped, name_of

CLOSING = 10.0  # seconds that engine and workers get to end
PERIOD = 0.5  # seconds between two looks of the watching threads at one another


class GracefulStop(Checkpoint):
    """Stops a run between optimizer steps when any of its processes got SIGTERM, SIGINT, SIGHUP or SIGUSR1.

    The ranks agree at a step's end; all save, close engine and workers, and exit with 128 + signal. What runs between two steps,
    generation or an evaluation, is waited for ``stop_grace`` seconds; then the state of the last step is saved in its stead. A second
    signal stops at once. Lightning's own handlers, which save wherever they interrupt, are not installed.

    Args:
        stop_grace: seconds that a running generation gets to come to its step's end.

    Raises:
        ConfigError: ``stop_grace`` is negative.
    """

    def __init__(self, stop_grace: float = 20.0) -> None:
        if not stop_grace >= 0:
            raise ConfigError(f"stop_grace: must be 0 or more seconds, got {stop_grace}")
        self.stop_grace = stop_grace
        self.checkpoint: RolloutCheckpoint | None = None
        self._gate = threading.Lock()
        self._inside = self._agreed = self.leaving = False
        self._watcher: _Watcher | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take over the signals."""
        if stage != "fit":
            return
        self.checkpoint = next((c for c in trainer.callbacks if isinstance(c, RolloutCheckpoint)), None)  # type: ignore[attr-defined]
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        REQUEST.install()
        REQUEST.last_resort = lambda: _end_processes(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on a signal waits for the end of a step."""
        REQUEST.deferred = True
        self._watcher = _Watcher(self, trainer)
        self._watcher.start()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """A step begins: until its end nobody else may take the state of the last one."""
        self._gate.acquire()
        self._inside = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Agree whether to stop here. Collective."""
        if not isinstance(batch, RolloutBatch):
            return
        if self._asked(trainer):
            self._end_watch()
            saved = self.checkpoint.save(wait=True) if self.checkpoint is not None else None
            raise self.stopped(trainer, saved)
        if self._inside:
            self._inside = False
            self._gate.release()

    def _asked(self, trainer: pl.Trainer) -> bool:
        """Whether any rank was asked to stop. Collective."""
        if signum := int(max_over_ranks([float(REQUEST.signum or 0)], trainer.strategy.root_device)[0]):
            REQUEST.ask(signum)
            self._agreed = True
        return self._agreed

    def _end_watch(self) -> None:
        if self._watcher is not None:
            self._watcher.end()
            self._watcher = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training is complete and saved; a signal that came by now, or comes later, stops what is left."""
        self._end_watch()
        asked = self._asked(trainer)
        REQUEST.deferred = False
        if asked:
            raise self.stopped(trainer, self.checkpoint.newest if self.checkpoint is not None else None)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close engine and workers of a run that was asked to stop."""
        if self.leaving:
            threading.Event().wait()  # the watching thread is saving and ends the process
        self._end_watch()
        REQUEST.deferred = False
        if isinstance(exception, Stopped):
            if not self._agreed:  # during set-up, where the other ranks cannot be asked
                exception.args = self.stopped(trainer, self.checkpoint.newest if self.checkpoint is not None else None).args
                end_started_ranks(trainer)
            _close(trainer)
        REQUEST.uninstall()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._end_watch()
        if stage == "fit":
            REQUEST.uninstall()

    def stopped(self, trainer: pl.Trainer, saved: Path | None) -> Stopped:
        """What ends this rank, with the line that its user needs; requeues a SLURM job that asked for it."""
        assert REQUEST.signum is not None
        done = self.checkpoint.step if self.checkpoint is not None else trainer.global_step
        lines = [f"stopped by {name_of(REQUEST.signum)} after {done} optimizer steps"]
        if saved is not None:
            lines[0] += f"; checkpoint {saved}"
            lines.append(f"go on with: {resume_command(run_folder(trainer))}")
        else:
            lines[0] += "; there is no checkpoint yet, the same command starts again"
        if trainer.is_global_zero and (job := requeue(trainer, REQUEST.signum)):
            lines.append(job)
        launched = starts_ranks(trainer) and not trainer.is_global_zero
        # Lightning's launcher kills rank zero when a rank that it started ends with another status than 0.
        return Stopped(REQUEST.signum, "\n".join(lines) if trainer.is_global_zero else "", 0 if launched else None)


class _Watcher(threading.Thread):
    """Looks after a process that is asked to stop while it is between two steps, where the main thread may wait for anything.

    The threads of all ranks go through the same rounds, over a group of their own: each tells whether it was asked, and once the time
    of grace is over each shuts the gate before its next step. If all can, no rank is inside a step and all have the same last one,
    which they save.
    """

    def __init__(self, stop: GracefulStop, trainer: pl.Trainer) -> None:
        super().__init__(daemon=True, name="graceful-stop")
        self._stop_callback, self._trainer = stop, trainer
        self._over = threading.Event()
        self._group = dist.new_group(backend="gloo") if trainer.world_size > 1 and dist.is_initialized() else None

    def end(self) -> None:
        """Leave, with the threads of the other ranks; waits a moment for it."""
        self._over.set()
        if self._group is None:
            REQUEST.event.set()
        if threading.current_thread() is not self:
            self.join(timeout=4 * PERIOD)

    def run(self) -> None:
        try:
            while self._round():
                if self._group is None and not REQUEST.event.is_set():
                    REQUEST.event.wait()
                else:
                    time.sleep(PERIOD if self._group is not None else 0.05)
        except RuntimeError:  # the group is gone: another rank has ended, and the main thread will hear of it
            return

    def _agree(self, values: list[float], op: Any = dist.ReduceOp.MAX) -> list[float]:
        if self._group is None:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, op=op, group=self._group)
        return tensor.tolist()

    def _round(self) -> bool:
        """One look at one another; False ends the watch."""
        grace = self._stop_callback.stop_grace
        asked = REQUEST.signum is not None
        late = asked and time.monotonic() - REQUEST.since >= grace
        over, signum, late_somewhere = self._agree([self._over.is_set(), float(REQUEST.signum or 0), late])
        if over:
            return False
        if signum:
            REQUEST.ask(int(signum))
        if not late_somewhere:
            return True
        shut = self._stop_callback._gate.acquire(blocking=False)
        if not self._agree([float(shut)], dist.ReduceOp.MIN)[0]:
            if shut:
                self._stop_callback._gate.release()
            return True
        self._leave()
        return False

    def _leave(self) -> None:
        """Save the last step's state, close what can be closed, and end the process; the main thread waits for something else."""
        checkpoint, trainer = self._stop_callback.checkpoint, self._trainer
        status, self._stop_callback.leaving = 1, True
        try:
            if (memory := getattr(trainer.lightning_module, "memory", None)) is not None and memory.generating and memory.allocator.shared:
                # The engine has the device. Once it is gone, what waits in host memory has room again.
                trainer.datamodule.engine.close()  # type: ignore[attr-defined]
                memory.take_back()
            saved = checkpoint.save(wait=True) if checkpoint is not None else None
            stopped = self._stop_callback.stopped(trainer, saved)
            status = stopped.status
            if trainer.is_global_zero:
                print(str(stopped), file=sys.stderr, flush=True)
            self._agree([1.0])  # rank zero may go only when all have written
            closing = threading.Thread(target=_close, args=(trainer,), daemon=True)
            closing.start()
            closing.join(CLOSING)
        except BaseException as error:  # nobody is left to hear of it
            print(f"error: {error}", file=sys.stderr, flush=True)
        finally:
            sys.stdout.flush()
            os._exit(status)


def starts_ranks(trainer: pl.Trainer) -> bool:
    """Whether Lightning starts the other ranks of this machine, and not torchrun or srun."""
    launcher = trainer.strategy.launcher
    return isinstance(launcher, _SubprocessScriptLauncher) and not launcher.cluster_environment.creates_processes_externally


def _close(trainer: pl.Trainer) -> None:
    data = trainer.datamodule  # type: ignore[attr-defined]
    if data is not None:
        data.teardown("fit")


def _end_processes(trainer: pl.Trainer) -> None:
    """Best effort of a second signal: the ranks that this one started, then engine and workers, two seconds for all."""
    end_started_ranks(trainer)
    closing = threading.Thread(target=_close, args=(trainer,), daemon=True)
    closing.start()
    closing.join(2.0)


def resume_command(folder: Path) -> str:
    """The command line that goes on with this run: the one that started it, with its folder and ``--resume auto``."""
    kept: list[str] = []
    words = iter(sys.argv[1:] or ["fit"])
    for word in words:
        option, equals, _ = word.partition("=")
        if option in ("--run_dir", "--resume", "--ckpt_path", "--name"):
            if not equals:
                next(words, None)
        else:
            kept.append(word)
    return shlex.join(["python", "-m", "aer_lightning", *kept, "--run_dir", str(folder), "--resume", "auto"])


def requeue(trainer: pl.Trainer, signum: int) -> str | None:
    """Ask SLURM for the job again where it asked for the stop by the requeue signal; one line on what came of it, None elsewhere."""
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue or signum != environment.requeue_signal:
        return None
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID", "")
    if shutil.which("scontrol") is None:
        return f"SLURM: no scontrol here, so job {job} is not requeued"
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    return f"SLURM: job {job} is requeued" if done.returncode == 0 else f"SLURM: job {job} was not requeued ({done.stderr.strip()})"
