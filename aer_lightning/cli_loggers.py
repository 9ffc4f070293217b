"""What the command line does for loggers: they write into the run's folder, and every one gets the whole configuration."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.cli import SaveConfigCallback

from aer_lightning.callbacks.run_files import run_folder
from aer_lightning.errors import ConfigError

PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow", "CometLogger": "comet_ml", "NeptuneLogger": "neptune"}


def place_files(config: Any, root: Path) -> None:
    """Have loggers write into the run's folder; changes a subcommand's configuration in place.

    A relative ``save_dir`` of a logger is one inside the run's folder. MLflow gets a database there, unless a ``tracking_uri`` or the
    environment's ``MLFLOW_TRACKING_URI`` names another; W&B gets the run's name, and the project ``aer_lightning`` where none is named.

    Args:
        config: as parsed, nothing built yet.
        root: folder of the run.

    Raises:
        ConfigError: the package of a logger is not installed.
    """
    loggers = config["trainer"].get("logger")
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        args = logger.get("init_args") if hasattr(logger, "get") else None
        if args is None:
            continue
        kind = logger["class_path"].rpartition(".")[2]
        package = PACKAGES.get(kind)
        if package is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(f"trainer.logger: {kind} needs the package {package}, which is not here; pip install {package}")
        if kind == "MLFlowLogger":
            if args.get("tracking_uri") in (None, os.environ.get("MLFLOW_TRACKING_URI")) and args.get("save_dir") == "./mlruns":
                root.mkdir(parents=True, exist_ok=True)
                args["tracking_uri"] = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(root / 'mlflow.db').absolute()}"
            args["run_name"] = args.get("run_name") or config.get("name")
        elif isinstance(place := args.get("save_dir"), str | Path) and "://" not in str(place):
            args["save_dir"] = str(root / place)
        if kind == "WandbLogger":
            args["name"] = args.get("name") or config.get("name")
            args["id"] = args.get("id") or args.get("version") or wandb_id(root)
            args["project"] = args.get("project") or os.environ.get("WANDB_PROJECT", "aer_lightning")


def wandb_id(root: Path) -> str:
    """The run's id at W&B, kept in its folder, so that a run that goes on is the same run there too."""
    path = root / "wandb_id"
    if getattr(rank_zero_only, "rank", None):  # only rank zero logs
        return ""
    if not path.is_file():
        root.mkdir(parents=True, exist_ok=True)
        path.write_text(os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def hyperparameters(config: Any) -> Any:
    """The configuration as loggers show it: a list of classes becomes a mapping by their short names, so that its options can be compared.

    Example:
        >>> hyperparameters({"callbacks": [{"class_path": "a.EntropyAnchor", "init_args": {"tau": 0.4}}], "seeds": [1, 2]})
        {'callbacks': {'EntropyAnchor': {'tau': 0.4}}, 'seeds': [1, 2]}
    """
    if isinstance(config, dict):
        return {str(key): hyperparameters(value) for key, value in config.items()}
    if not isinstance(config, list) or not config or not all(isinstance(item, dict) and "class_path" in item for item in config):
        return config
    named: dict[str, Any] = {}
    for item in config:
        name = short = str(item["class_path"]).rpartition(".")[2]
        while name in named:
            name = f"{short}_{sum(key.startswith(short) for key in named) + 1}"
        named[name] = hyperparameters(item.get("init_args") or {})
    return named


class RunConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's folder, wherever loggers write, and gives every logger the whole configuration."""

    def __init__(self, parser: Any, config: Any, config_filename: str = "config.yaml", overwrite: bool = False, **_: Any) -> None:
        super().__init__(parser, config, config_filename, overwrite, save_to_log_dir=False)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write and log. Rank zero."""
        import yaml

        path = run_folder(trainer) / self.config_filename
        if path.exists() and not self.overwrite:
            raise ConfigError(f"trainer.default_root_dir: {path} is that of another run; choose another folder, nothing was written")
        self.parser.save(self.config, str(path), skip_none=False, overwrite=True, multifile=False)
        facts = hyperparameters(yaml.safe_load(self.parser.dump(self.config, skip_none=False)))
        for logger in trainer.loggers:
            logger.log_hyperparams(facts)


def end_wandb() -> None:
    """End a run of W&B that was begun before the configuration was refused, so that its files can be removed."""
    if (wandb := sys.modules.get("wandb")) is not None and getattr(wandb, "run", None) is not None:
        wandb.finish(exit_code=2, quiet=True)
