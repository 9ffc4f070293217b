"""The command line's part of going on with a run: ``--resume``, ``--allow_changes``, ``--stop_grace`` and what ``--ckpt_path`` may be."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser

from aer_lightning.callbacks.checkpoint import RolloutCheckpoint
from aer_lightning.checkpoints import logs
from aer_lightning.checkpoints.folder import read_manifest
from aer_lightning.checkpoints.restore import check_path, is_checkpoint_folder
from aer_lightning.errors import ConfigError
from aer_lightning.launch import agree, cluster, refuse_together
from aer_lightning.resume import STACK, check_changes, check_run_folder, choose, configuration, is_complete, run_folder_of
from aer_lightning.temporary import sweep_folders, sweep_run

CHOICE_TIMEOUT = 1800.0  # seconds in which rank zero reads every byte of a checkpoint
RESUMED_VARIABLE = "AER_LIGHTNING_RESUMED"  # folder and checkpoint that rank zero chose, for the ranks that it starts


def add_arguments(parser: LightningArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--resume",
        type=Literal["auto"] | None,
        default=None,
        help="auto: go on from the newest whole checkpoint of --run_dir, or of the newest run of --name; start if there is none.",
    )
    parser.add_argument(
        "--allow_changes", type=str | None, default=None, help="Options, with commas between, that may differ from the checkpoint's."
    )
    parser.add_argument(
        "--stop_grace", type=float, default=20.0, help="Seconds that a generation is waited for when a signal asks the run to stop."
    )


@dataclass
class Resumption:
    """Where a run goes on.

    Attributes:
        folder: the run's, if it was there before.
        checkpoint: to go on from, None for a start.
        step: optimizer steps done at the checkpoint.
        configuration: of this run, for its own checkpoints.
        allowed: options that were allowed to differ.
    """

    folder: Path | None = None
    checkpoint: Path | None = None
    step: int = 0
    configuration: dict[str, Any] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()

    def is_complete(self, trainer: pl.Trainer) -> bool:
        """Whether nothing is left to do."""
        return (
            self.folder is not None
            and self.checkpoint is not None
            and is_complete(self.checkpoint, self.step, trainer.max_epochs, trainer.max_steps)
        )

    def tell(self, trainer: pl.Trainer) -> None:
        """Hand on to the callback that writes checkpoints what it has to know."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RolloutCheckpoint):
                callback.configuration, callback.allow_changes = self.configuration, self.allowed
                if any(name in (STACK, "callbacks") for name in self.allowed):
                    callback.new_callbacks = tuple(e["class_path"].rsplit(".", 1)[-1] for e in self.configuration[STACK])


def find(subcommand: str, config: Any, rank: int) -> Resumption:
    """Read the options of a command line; a checkpoint is checked before anything is built.

    Raises:
        ConfigError: options that contradict each other, or a run that is not the checkpoint's.
        DataError: ``ckpt_path`` is no whole checkpoint.
    """
    resume, path = config.get("resume"), config.get("ckpt_path")
    allowed = tuple(name.strip() for name in (config.get("allow_changes") or "").split(",") if name.strip())
    if subcommand != "fit":
        if resume or allowed:
            raise ConfigError(f"{'resume' if resume else 'allow_changes'}: is for fit; give {subcommand} a checkpoint with --ckpt_path")
        if path:
            check_path(path)
        return Resumption()
    if resume and path:
        raise ConfigError("resume: auto chooses the checkpoint itself; leave out --ckpt_path, or --resume")
    # Not part of the configuration that is written down: the same file starts the same run.
    config["resume"] = config["allow_changes"] = None
    found = Resumption(configuration=configuration(config), allowed=allowed)
    if resume:
        _choose(found, config, rank)
    elif path:
        refuse_together("ckpt_path", lambda: check_path(path), CHOICE_TIMEOUT)
        if is_checkpoint_folder(path):
            _compare(found, Path(path), read_manifest(Path(path)))
    return found


def _choose(found: Resumption, config: Any, rank: int) -> None:
    """Rank zero chooses, because a checkpoint may appear or go while the ranks look one after the other."""
    if rank != 0 and cluster() is None and RESUMED_VARIABLE in os.environ:
        chosen = os.environ[RESUMED_VARIABLE]
    else:
        chosen = os.environ[RESUMED_VARIABLE] = agree("resume", lambda: _choice(config), CHOICE_TIMEOUT)
    found.folder, found.checkpoint = (Path(p) if p else None for p in chosen.split(os.pathsep))
    if found.checkpoint is not None:
        _compare(found, found.checkpoint, manifest := read_manifest(found.checkpoint), rank)
        found.step = manifest["step"]


def _choice(config: Any) -> str:
    """Folder and checkpoint to go on from, absolute, each empty where there is none; what an unfinished start left goes."""
    folder, checkpoint = run_folder_of(config["trainer"]["default_root_dir"] or config["run_dir"], config["name"]), None
    sweep_folders()
    if folder is not None:
        sweep_run(folder)
    if folder is not None and (chosen := choose(folder, _say)):
        checkpoint = chosen[0]
        _say(f"going on from {checkpoint}")
    elif folder is not None:
        check_run_folder(folder)
        logs.start_over(folder)
    return os.pathsep.join(str(path.absolute()) if path else "" for path in (folder, checkpoint))


def _compare(found: Resumption, checkpoint: Path, manifest: dict[str, Any], rank: int = 0) -> None:
    if manifest["configuration"]:
        for line in check_changes(manifest["configuration"], found.configuration, found.allowed, checkpoint):
            if rank == 0:
                _say(line)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
