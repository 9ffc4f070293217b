"""The LightningCLI of this package: a run folder, its loggers, and the reporting callbacks as configurable keys."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from aer_lightning import cli_parts
from aer_lightning.callbacks.checkpoint import RolloutCheckpoint
from aer_lightning.callbacks.graceful_stop import GracefulStop
from aer_lightning.callbacks.rank_watch import RankWatch
from aer_lightning.callbacks.reports import REPORTS
from aer_lightning.cli_checks import check_name, check_seed, check_text, check_writable, interpolation_error
from aer_lightning.cli_errors import OneLineParser, find_user_error
from aer_lightning.cli_help import find_help
from aer_lightning.cli_loggers import RunConfig, end_wandb, place_files
from aer_lightning.data.datamodule import RolloutDataModule
from aer_lightning.errors import ConfigError, UserError
from aer_lightning.event_log import EventLog
from aer_lightning.launch import agree, cluster, process_rank, refuse_together
from aer_lightning.modules.policy import PolicyModule
from aer_lightning.modules.strategies import named_strategy
from aer_lightning.overlays import check_overlays, find_configs
from aer_lightning.patient_files import disk_error
from aer_lightning.profiles import lay_profile
from aer_lightning.resume_options import Resumption, add_arguments, find
from aer_lightning.signals import REQUEST, Stopped

REPORTING = REPORTS | {"checkpoint": RolloutCheckpoint}
TRAINER_DEFAULTS = {
    "inference_mode": False,  # weights are read and served between training steps, which inference tensors forbid
    "num_sanity_val_steps": 0,  # the initial validation is a whole one, and logged
    "log_every_n_steps": 1,
    "use_distributed_sampler": False,  # the loaders know their rank
}
PARSER = {
    "parser_mode": "omegaconf+",  # ${model.init_args.pretrained} in a file follows an override on the command line
    "allow_abbrev": False,  # --trainer.max_epoch is a mistake, not max_epochs
}
EPILOG = "--profile auto|cpu|gpu lays the sizes for a kind of machine, configs/profile/gpu/NAME.yaml, over configs/NAME.yaml."
RUN_DIR_VARIABLE = "AER_LIGHTNING_RUN_DIR"


class AERCommandLine(LightningCLI):
    """LightningCLI with ``--name`` and ``--run_dir``: every run gets its own folder, with all its files in it."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder's options and one key per reporting callback."""
        parser.add_argument("--name", type=str, default="run", help="Name of the run; its folder is runs/<name>/<time>.")
        parser.add_argument("--run_dir", type=str | None, default=None, help="Folder of the run, which must not exist yet.")
        parser.add_argument("--dry_run", type=bool, default=False, help="fit: go through every check and a made-up step, then stop.")
        for key, callback in REPORTING.items():
            parser.add_lightning_class_args(callback, key)
        add_arguments(parser)
        parser.add_argument(
            "--rank_timeout", type=float, default=45.0, help="Seconds without a sign of life of a rank after which the others end."
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Leave the table of an evaluation to ``evaluation_report``; ``--verbose true`` prints Lightning's own beside it."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})
        return parser

    def _parse_ckpt_path(self) -> None:
        """Find the checkpoint to go on from, or refuse the one given; this package keeps no hyper-parameters in checkpoints."""
        self.resumption = Resumption()
        if self.subcommand_name is not None:
            check_name(self._get(self.config, "name"))
            self.resumption = find(self.subcommand_name, self.config[self.subcommand_name], process_rank())
            self.save_config_kwargs = {**self.save_config_kwargs, "overwrite": self.resumption.folder is not None}

    def _set_seed(self) -> None:
        check_seed(self._get(self.config, "seed_everything"))
        super()._set_seed()

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        return kwargs | ({"ckpt_path": str(self.resumption.checkpoint)} if self.resumption.checkpoint is not None else {})

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand == "fit" and self._get(self.config, "dry_run"):
            from aer_lightning.plan.start import dry_run

            for line in dry_run(self.model, self.datamodule, self.trainer, self._sections()):
                print(line)
            print("dry run: every check passed; nothing was trained and nothing was written")
            discard_unused_run_dir()
            return
        if subcommand == "fit":
            from aer_lightning.plan.start import announce, present_device

            if present_device() is not None:
                announce(self._sections())
        if self.resumption.is_complete(self.trainer):
            print(f"{self.resumption.folder}: this run is complete and has reported; nothing is left to do")
            return
        super()._run_subcommand(subcommand)

    def _sections(self) -> dict[str, Any]:
        """Model, data and trainer of the configuration as plain mappings."""
        return {key: _plain(self._get(self.config, key)) for key in ("model", "data", "trainer")}

    @property
    def subcommand_name(self) -> str | None:
        """The subcommand, also before LightningCLI has set its attribute."""
        return self.config.get("subcommand")

    def _get(self, config: Any, key: str, default: Any = None) -> Any:
        return config.get(str(self.subcommand_name), config).get(key, default)

    def instantiate_classes(self) -> None:
        """Build everything; what a constructor refuses comes out as its own line, not as the parser's account of it."""
        given, own = self.config, self._get(self.config, "trainer")["default_root_dir"]
        self._root = Path(own or self.resumption.folder or run_dir(self._get(self.config, "run_dir"), self._get(self.config, "name")))
        if own or self.resumption.folder:
            refuse_together("writable", lambda: check_writable(self._root, "trainer.default_root_dir" if own else "run_dir"))
        try:
            # The run's own paths are no part of the configuration that is saved, which starts the same run in another folder.
            self.config = given.clone()
            place_files(self.config.get(str(self.subcommand_name), self.config), self._root)
            self._given = given
            super().instantiate_classes()
        except Exception as error:
            # Whatever the parser wraps a constructor's UserError in; all else goes on unchanged.
            if (found := find_user_error(error)) is None:
                raise
            raise found from None

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build the trainer with the run folder as its root, and TensorBoard writing into it where no logger is chosen."""
        self.config = self._given
        config = self._get(self.config_init, "trainer")
        kwargs["strategy"] = named_strategy(config["strategy"])
        kwargs["default_root_dir"] = str(self._root)
        if config["logger"] in (None, True):
            kwargs["logger"] = [EventLog(self._root, name="", version="")]
        trainer: Any = self._trainer(**kwargs)
        if str(config["precision"]) in ("16-mixed", "16") and isinstance(trainer.accelerator, CPUAccelerator):
            raise ConfigError("trainer.precision: there is no fp16 on a CPU, and Lightning would take bf16 in its place; use bf16-mixed")
        trainer.callbacks.append(RankWatch(self._get(self.config, "rank_timeout")))
        if self.subcommand_name == "fit":
            self.resumption.tell(trainer)
            trainer.callbacks.append(GracefulStop(self._get(self.config, "stop_grace")))
        return trainer

    def _trainer(self, **kwargs: Any) -> Any:
        try:
            return super().instantiate_trainer(**kwargs)
        except UserError:
            raise
        except ValueError as error:  # Lightning's word on options that it refuses
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error


def run_dir(chosen: str | None, name: str) -> Path:
    """The folder of this run, rank zero's on every process, whoever launched it.

    Raises:
        ConfigError: the chosen folder exists and is not empty, or is a file.
    """
    if process_rank() != 0 and cluster() is None and RUN_DIR_VARIABLE in os.environ:
        return Path(os.environ[RUN_DIR_VARIABLE])
    own: list[Path] = []  # as it was given, for what rank zero prints

    def decide() -> str:
        own.append(free_folder(chosen, name))
        return str(own[0].absolute())

    os.environ[RUN_DIR_VARIABLE] = path = agree("run_dir", decide)
    return own[0] if own else Path(path)


def free_folder(chosen: str | None, name: str) -> Path:
    """The chosen folder, or one named by the time, which does not exist yet."""
    if chosen is not None:
        path = Path(chosen)
        if path.exists() and not path.is_dir():
            raise ConfigError(f"run_dir: {chosen} is a file; choose a folder, nothing was written")
        check_writable(path)
        if path.exists() and any(path.iterdir()):
            raise ConfigError(f"run_dir: {chosen} exists and is not empty; choose another folder, nothing was written")
        return path
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    path = Path("runs") / name / stamp
    n = 1
    while path.exists():
        path, n = Path("runs") / name / f"{stamp}_{n}", n + 1
    check_writable(path)
    return path


def build(argv: list[str], run: bool = True) -> AERCommandLine:
    """Parse ``argv`` (a subcommand first), build module, data and trainer, and run the subcommand unless told not to."""
    if process_rank() == 0:
        os.environ.pop(RUN_DIR_VARIABLE, None)
    return _command_line(AERCommandLine if run else _Built, argv)


def _command_line(kind: type[AERCommandLine], argv: list[str], device: str | None = None) -> AERCommandLine:
    argv = find_configs(argv)
    check_text(argv)
    argv = lay_profile(argv, device)
    check_overlays(argv)
    cli_parts.install()
    quieten()
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    try:
        return _make(kind, argv)
    except OmegaConfBaseException as error:
        raise interpolation_error(error, argv) from None


def _make(kind: type[AERCommandLine], argv: list[str]) -> AERCommandLine:
    return kind(
        PolicyModule,
        RolloutDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        trainer_defaults=TRAINER_DEFAULTS,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        parser_kwargs={name: PARSER | {"epilog": EPILOG} for name in AERCommandLine.subcommands()} | PARSER,
        parser_class=OneLineParser,
        save_config_callback=RunConfig,
        args=argv,
    )


def help_roots() -> dict[str, type]:
    """Class by the first part of an option's dotted name, for ``--OPTION.help``."""
    from lightning.pytorch import Trainer

    return {"trainer": Trainer, "model": PolicyModule, "data": RolloutDataModule, **REPORTING}


def subcommand_options(command: str) -> list[str]:
    """Long options of a subcommand, those of its classes included, for shell completion."""
    from jsonargparse._parameter_resolvers import get_signature_parameters

    options = [
        "--name",
        "--run_dir",
        "--profile",
        "--resume",
        "--allow_changes",
        "--stop_grace",
        "--rank_timeout",
        "--seed_everything",
        "--print_config",
        *(["--ckpt_path"] if command else []),
    ]
    for root, kind in help_roots().items():
        infix = ".init_args" if root in ("model", "data") else ""
        options += [f"--{root}{infix}.{p.name}" for p in get_signature_parameters(kind) if p.name not in ("self", "args", "kwargs")]
    return options


def quieten() -> None:
    """Leave out what tells the user of a run nothing: advice that does not apply here, and tips for other products."""
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # deprecations of torch's own
    # The state of our loader is the DataModule's, so that it resumes inside an epoch.
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
    # Figures are reduced over ranks before they are logged; arguments are given as a list on purpose; loaders are no DataLoaders.
    for message in (
        "It is recommended to use `self.log",
        "LightningCLI's args parameter",
        "torch.distributed is disabled",
        ".*LeafSpec.*is deprecated",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.getMessage())


class _Parsed(AERCommandLine):
    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def parse(argv: list[str], device: str | None = None) -> dict[str, Any]:
    """The configuration of a command as plain mappings, interpolations resolved; no module, data or trainer is built.

    Args:
        argv: the subcommand and its options.
        device: the profile of a machine other than this one.
    """
    return _command_line(_Parsed, argv, device)._sections()


def _plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        return value.as_dict()
    return value


class _Built(AERCommandLine):
    def _run_subcommand(self, subcommand: str) -> None:
        """Stop where everything is built."""


def main(argv: list[str]) -> int:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        ConfigError: Lightning refused a combination of options.
        SaveError: the disk is full.
        Stopped: a signal asked the run to stop.
    """
    if (text := find_help(argv, help_roots())) is not None:
        print(text)
        return 0
    if argv[0] == "fit":
        REQUEST.install()
    try:
        build(argv)
    except MisconfigurationException as error:
        discard_unused_run_dir()
        raise ConfigError(" ".join(str(error).split())) from error
    except (UserError, Stopped):
        discard_unused_run_dir()
        raise
    except Exception as error:
        if (full := disk_error(error)) is None:
            raise
        raise full from None
    finally:
        REQUEST.uninstall()
    return 0


def discard_unused_run_dir() -> None:
    """Remove the folder of a run that was refused before it trained, so that the same command works once mended."""
    path = Path(os.environ.get(RUN_DIR_VARIABLE, ""))
    if process_rank() != 0 or not path.name or not path.is_dir():
        return
    end_wandb()
    files = list(path.iterdir())
    if all(f.name.startswith(("events.out.tfevents", "config.yaml", "hparams.yaml", "mlflow.db", "wandb")) for f in files):
        shutil.rmtree(path)
