"""Checkpoints of a run: when they are written, and what happens when the run goes on from one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn

from aer_lightning import __version__
from aer_lightning.callbacks.initial_validation import run_validation
from aer_lightning.callbacks.run_files import run_folder
from aer_lightning.checkpoints import hyperparameters, logs, restore
from aer_lightning.checkpoints.folder import FOLDER, read_manifest, replace_file
from aer_lightning.checkpoints.saver import Saver, Snapshot
from aer_lightning.checkpoints.state import check_parts, heavy_state, light_state, packed
from aer_lightning.distributed import max_over_ranks
from aer_lightning.errors import ConfigError, SaveError
from aer_lightning.resume import COMPLETE, completion
from aer_lightning.rollout import RolloutBatch


class RolloutCheckpoint(Checkpoint):
    """Writes ``<run folder>/checkpoints/step-<n>.ckpt`` between optimizer steps, and restores what Lightning leaves out.

    The first comes after the first rollout, then one whenever so many rollouts or minutes have passed, and one after the last step.
    Training waits for the copy to host memory only. A checkpoint appears under its name when it is whole (see
    ``aer_lightning.checkpoints.folder``); ranks write their own shards, and it resumes on any number of ranks under any strategy.

    Args:
        every_n_rollouts: rollouts between checkpoints; null for no such rule.
        every_minutes: minutes between checkpoints, written at the next end of a rollout; null for no such rule.
        keep_last: newest checkpoints that are kept.
        on_save_error: ``continue`` says so and tries again at the next save; ``stop`` ends the run.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        every_n_rollouts: int | None = 10,
        every_minutes: float | None = 15.0,
        keep_last: int = 2,
        on_save_error: Literal["stop", "continue"] = "continue",
    ) -> None:
        if every_n_rollouts is not None and every_n_rollouts < 1:
            raise ConfigError(f"checkpoint.every_n_rollouts: must be at least 1, or null for no such rule, got {every_n_rollouts}")
        if every_minutes is not None and not every_minutes > 0:
            raise ConfigError(f"checkpoint.every_minutes: must be above 0, or null for no such rule, got {every_minutes}")
        if keep_last < 1:
            raise ConfigError(f"checkpoint.keep_last: must be at least 1, got {keep_last}")
        if on_save_error not in ("stop", "continue"):
            raise ConfigError(f"checkpoint.on_save_error: must be stop or continue, got {on_save_error!r}")
        self.every_n_rollouts, self.every_minutes = every_n_rollouts, every_minutes
        self.keep_last, self.on_save_error = keep_last, on_save_error
        self.configuration: dict[str, Any] = {}
        self.allow_changes: tuple[str, ...] = ()
        self.new_callbacks: tuple[str, ...] = ()
        self.newest: Path | None = None
        self._saver: Saver | None = None
        self._restored: dict[str, Any] | None = None
        self._fresh: dict[str, Any] = {}
        self._row: dict[str, float] = {}
        self._row_step = 0
        self._rollouts = 0
        self._since = 0.0
        self._first = True
        self._saved: int | None = None
        self._problem = ""
        self._snapshot: Callable[[], Snapshot] | None = None
        self.step = 0

    # -- set-up and resume ---------------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Teach the strategy to read checkpoint folders, and make ready to write them. Collective."""
        restore.install(trainer)
        if stage != "fit":
            return
        finish_when_done(trainer)
        self._saver = Saver(run_folder(trainer) / FOLDER, self.keep_last)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read optimizer and schedule as configured, before a checkpoint's take their place."""
        self._fresh = hyperparameters.describe(trainer)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that lacks a part of this run."""
        if trainer.state.fn == "fit":
            self.newest = Path(str(trainer.ckpt_path))
            check_parts(trainer, checkpoint, str(trainer.ckpt_path), self.new_callbacks)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until training starts."""
        self._restored = state_dict

    def state_dict(self) -> dict[str, Any]:
        """Optimizer and schedule as configured, and the figures that loggers get after this step."""
        return {"hyperparameters": self._fresh, "row": self._row, "row_step": self._row_step}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on from a checkpoint: options that changed, files cut back, the evaluation that was due."""
        self._since = time.monotonic()
        if trainer.ckpt_path is None:
            return
        self._first = False
        begin_next_epoch(trainer)
        self.step = self._saved = trainer.global_step
        path = Path(trainer.ckpt_path)
        if self._restored is not None:
            saved = self._restored["hyperparameters"]
            hyperparameters.check(saved, self._fresh, self.allow_changes)
            hyperparameters.apply(trainer, saved, self._fresh)
            self._row = self._restored["row"]
            self._row_step = self._restored["row_step"]
        if not restore.is_checkpoint_folder(path):
            return
        facts = read_manifest(path)
        if path.resolve().parent == (run_folder(trainer) / FOLDER).resolve():
            self._cut_back(trainer, facts)
        if facts["validation_due"] and trainer.enable_validation:
            run_validation(trainer, epochs_done=trainer.current_epoch - facts["epoch"])

    def _cut_back(self, trainer: pl.Trainer, facts: Mapping[str, Any]) -> None:
        """Have the files of the run end where the checkpoint does; loggers get the figures that followed it."""
        if not trainer.is_global_zero:
            return
        folder, step = run_folder(trainer), trainer.global_step
        for problem in logs.cut_back(folder, facts["logs"]):
            rank_zero_warn(problem)
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.CSVLogger):
                continue
            complete = False
            if isinstance(logger, pl.loggers.TensorBoardLogger):
                current = [Path(logger.experiment.file_writer.event_writer._file_name).name]
                complete = logs.cut_back_events(Path(logger.log_dir), step, list(self._row), self._row_step, current)
            if self._row and not complete:
                logger.log_metrics(self._row, step=self._row_step)

    # -- saving ----------------------------------------------------------------------------------------------------------------------

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take note of the state after this step, and save it where a checkpoint is due. Collective."""
        if not isinstance(batch, RolloutBatch):
            return
        self.take(trainer, batch.last)
        if batch.last:
            self._rollouts += 1
        self._collect(trainer)
        if batch.last and self._due(trainer):
            self.save()

    def _due(self, trainer: pl.Trainer) -> bool:
        passed = time.monotonic() - self._since
        late = self.every_minutes is not None and bool(max_over_ranks([passed >= 60 * self.every_minutes], trainer.strategy.root_device)[0])
        often = self.every_n_rollouts is not None and self._rollouts >= self.every_n_rollouts
        return self._first or often or late or ends_here(trainer)

    def take(self, trainer: pl.Trainer, last: bool) -> None:
        """Remember the state after the step that just ended; weights and optimizer by reference. Collective."""
        loop = trainer.fit_loop.epoch_loop
        if last and trainer.is_global_zero:
            self._row = {**logs.plain_row(trainer.logged_metrics), "epoch": float(trainer.current_epoch)}
            self._row_step = loop._batches_that_stepped
        step = self.step = trainer.global_step
        light = light_state(trainer)
        facts = {
            "package": __version__,
            "torch": torch.__version__,
            "step": step,
            "epoch": trainer.current_epoch,
            "rollouts": getattr(trainer.datamodule, "rollouts", 0),  # type: ignore[attr-defined]
            "world_size": trainer.world_size,
            "strategy": type(trainer.strategy).__name__,
            "validation_due": bool(loop._should_check_val_fx(trainer.fit_loop._data_fetcher)),  # type: ignore[arg-type]
            "logs": logs.sizes(run_folder(trainer)) if trainer.is_global_zero else {},
            "configuration": self.configuration,
        }
        # While FSDP2 scores, its modules hold gathered weights; references to the shards have to be taken between steps.
        held = heavy_state(trainer.lightning_module, trainer.optimizers) if isinstance(trainer.strategy, ModelParallelStrategy) else None

        def snapshot() -> Snapshot:
            tensors, names = held if held is not None else heavy_state(trainer.lightning_module, trainer.optimizers)
            # Packed here and not at every step: what grows with the run, such as the rows of its metrics, is in it.
            parts = {"state": packed(light), "names": packed(names)} if trainer.is_global_zero else {}
            return Snapshot(step, tensors, parts, facts)

        self._snapshot = snapshot

    def save(self, wait: bool = False) -> Path | None:
        """Save the state after the last step, if that has not been done. Called by all ranks.

        Args:
            wait: return when it is written, with its path.

        Returns:
            The newest checkpoint.
        """
        assert self._saver is not None
        self._settle()
        if self._snapshot is not None and self._saved != self.step:
            self._rollouts, self._since, self._first = 0, time.monotonic(), False
            self._saver.begin(self._snapshot())
            if wait:
                self._settle()
        return self.newest

    def _collect(self, trainer: pl.Trainer) -> None:
        """Hear of a save that has ended, on all ranks at the same step."""
        assert self._saver is not None
        if self._saver.busy and not max_over_ranks([not self._saver.finished()], trainer.strategy.root_device)[0]:
            self._settle()

    def _settle(self) -> None:
        assert self._saver is not None
        if (outcome := self._saver.wait()) is None:
            return
        step, result = outcome
        if isinstance(result, Path):
            self.newest, self._saved = result, step
            return
        self._failed(step, result)

    def _failed(self, step: int, reason: str) -> None:
        self._problem = reason
        older = f"the newest checkpoint is {self.newest}" if self.newest is not None else "there is no checkpoint yet"
        problem = f"checkpoint: the state of step {step} could not be saved ({reason}); {older}"
        if self.on_save_error == "stop":
            raise SaveError(f"{problem}. The run stops, as checkpoint.on_save_error says")
        rank_zero_warn(f"{problem}; the run goes on and tries again at the next save")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have the last state on disk before anything is made of it."""
        self.save(wait=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take note that nothing is left to do.

        Raises:
            SaveError: the last state is still not saved. Everything else that the run writes at its end is there by now.
        """
        self.save(wait=True)
        if self._snapshot is not None and self._saved != self.step:
            raise SaveError(
                f"checkpoint: the state of the last step, {self.step}, could not be saved ({self._problem}); make room, then go on with "
                "--resume auto"
            )
        if trainer.is_global_zero and self.newest is not None:
            facts = completion(self.step, trainer.max_epochs, trainer.max_steps)
            replace_file(self.newest.parent / COMPLETE, json.dumps(facts).encode())

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let a save in the background come to its end."""
        if self._saver is not None and trainer.world_size == 1:
            self._saver.close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """End the writing thread."""
        if self._saver is not None:
            self._saver.close()
            self._saver = None


def finish_when_done(trainer: pl.Trainer) -> None:
    """Have a run that is resumed with all its steps done go through the hooks of its end.

    Lightning returns before any hook where ``max_steps`` is reached at the start, so that a run which died before its export or its last
    evaluation would stay without them.
    """
    loop = trainer.fit_loop
    run = loop.run

    def run_or_finish() -> None:
        if trainer.ckpt_path is None or not 0 <= trainer.max_steps <= trainer.global_step:
            run()
            return
        loop.setup_data()
        loop.reset()
        loop.on_run_start()
        loop._restarting = False
        loop.on_run_end()

    loop.run = run_or_finish  # type: ignore[method-assign]


def begin_next_epoch(trainer: pl.Trainer) -> None:
    """Have a run that goes on from the end of an epoch begin the next one as any other.

    Lightning takes it for the rest of the epoch before: it leaves out ``on_train_epoch_start`` and counts no epoch begun, so that a
    checkpoint of the next steps looks like one between epochs, and a run that goes on from it leaves out the evaluation of its epoch.
    """
    loop = trainer.fit_loop
    progress: Any = loop.epoch_progress.current
    if loop.restarted_mid_epoch and progress.processed == progress.started:
        loop.reset_restart_stage()


def ends_here(trainer: pl.Trainer) -> bool:
    """Whether the step that just ended is the run's last by its limits on steps and epochs."""
    if trainer.max_steps >= 0 and trainer.global_step >= trainer.max_steps:
        return True
    last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    return bool(last and trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1)
