"""``--resume auto``: which folder and checkpoint a run goes on from, and what may have changed in between."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from aer_lightning.checkpoints.folder import FOLDER, newest
from aer_lightning.errors import ConfigError

RUNS = Path("runs")
COMPLETE = "complete.json"  # in the folder of checkpoints: nothing is left to do
BEGINNINGS = ("events.out.tfevents", "hparams.yaml", "metrics.csv", "samples.jsonl", "evaluation.jsonl", "wandb", "mlflow.db")
MODEL, DATA = "model", "data"
# Options of model and data that change how fast or where something is computed, or what is reported, and not what is trained.
FREE = (
    *("model.init_args.optimizer", "model.init_args.lr_scheduler"),  # compared with the checkpoint's by themselves
    *("model.init_args.attn_implementation", "model.init_args.trust_remote_code", "model.init_args.gradient_checkpointing"),
    *("model.init_args.kernel_backend", "model.init_args.memory_mb", "model.init_args.workspace_mb", "model.init_args.compile_layers"),
    *("model.init_args.offload", "model.init_args.reduce_gradients"),
    *("data.init_args.engine", "data.init_args.evaluation", "data.init_args.eval_", "data.init_args.verifier_"),
    *("data.init_args.limits", "data.init_args.max_mismatch", "data.init_args.sleep_engine"),
    *("data.init_args.micro_batch_size", "data.init_args.tokens_per_micro_batch"),
)
STACK = "trainer.callbacks"


def run_folder_of(run_dir: str | None, name: str) -> Path | None:
    """The folder to go on in: ``run_dir``, or the newest run of that name; None where there is none yet.

    Raises:
        ConfigError: ``run_dir`` is a file.
    """
    if run_dir is not None:
        path = Path(run_dir)
        if path.exists() and not path.is_dir():
            raise ConfigError(f"run_dir: {run_dir} is a file; give a folder")
        return path
    try:
        # Folders are named by the time of the start, which sorts by itself.
        found = sorted(path for path in (RUNS / name).iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return None
    return found[-1] if found else None


def choose(folder: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a run and its manifest, None if there is none to go on from."""
    return newest(folder / FOLDER, say=lambda problem: say(f"passed over: {problem}"))


def completion(step: int, max_epochs: int | None, max_steps: int) -> dict[str, int | None]:
    """What ``complete.json`` says: the optimizer steps of a run that has ended, and the limits that it was to go to, None for no limit."""
    limits = {"max_epochs": max_epochs, "max_steps": max_steps}
    return {"step": step, **{name: value if value is not None and value >= 0 else None for name, value in limits.items()}}


def is_complete(checkpoint: Path, step: int, max_epochs: int | None, max_steps: int) -> bool:
    """Whether the run of a checkpoint has trained to these limits, exported and reported."""
    try:
        return json.loads((checkpoint.parent / COMPLETE).read_text(encoding="utf-8")) == completion(step, max_epochs, max_steps)
    except (OSError, ValueError):
        return False


def check_run_folder(folder: Path) -> None:
    """Refuse to start in a folder that holds something else than the beginnings of a run.

    Raises:
        ConfigError: names the folder.
    """
    if not folder.is_dir() or any((folder / name).exists() for name in ("config.yaml", FOLDER)):
        return
    if strange := next((path.name for path in folder.iterdir() if not path.name.startswith(BEGINNINGS)), None):
        raise ConfigError(f"run_dir: {folder} is no run's folder, it holds {strange}; choose another, nothing was written")


def configuration(config: Any) -> dict[str, Any]:
    """What makes a run the run that it is, by dotted option: seed, entropy stack, model and data without ``FREE``."""
    from aer_lightning.callbacks.stack import EntropyCallback

    plain = json.loads(json.dumps(config.as_dict(), default=str))
    stack = [entry for entry in plain["trainer"].get("callbacks") or [] if issubclass(_class(entry["class_path"]), EntropyCallback)]
    named = {"seed_everything": plain.get("seed_everything"), STACK: stack}
    for key in (MODEL, DATA):
        named |= dict(_flat(key, plain[key]))
    return {name: value for name, value in named.items() if not name.startswith(FREE)}


def _class(path: str) -> type:
    module, name = path.rsplit(".", 1)
    return getattr(import_module(module), name)


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in _flat(f"{prefix}.{key}", inner)]
    return [(prefix, value)]


def check_changes(old: Mapping[str, Any], new: Mapping[str, Any], allowed: Sequence[str], checkpoint: Path) -> list[str]:
    """Compare the configuration of a checkpoint with that of the run that is to go on from it.

    Args:
        old, new: as ``configuration`` gave them.
        allowed: options that may differ, each the whole dotted name or one end or beginning of it.
        checkpoint: for the message.

    Returns:
        One line for each change that was allowed.

    Raises:
        ConfigError: what differs and was not allowed, old and new; or a name that is no option.
    """
    names = {*old, *new}
    unknown = [name for name in allowed if not any(_covers(name, option) for option in names)]
    if unknown:
        raise ConfigError(f"allow_changes: {', '.join(unknown)} is no option that is compared; give dotted names or their ends")
    changes = {
        name: f"{name} {_brief(name, old.get(name))} -> {_brief(name, new.get(name))}"
        for name in sorted(names)
        if (old.get(name) != new.get(name))
    }
    refused = [name for name in changes if not any(_covers(allow, name) for allow in allowed)]
    if refused:
        raise ConfigError(
            f"resume: this run is not the one of {checkpoint}: {'; '.join(changes[name] for name in refused)}. "
            f"Undo the change, or go on knowingly with --allow_changes {','.join(refused)}"
        )
    return [f"changed knowingly: {line}" for line in changes.values()]


def _covers(allowed: str, option: str) -> bool:
    return allowed == option or option.endswith(f".{allowed}") or option.startswith(f"{allowed}.") or f".{allowed}." in option


def _brief(name: str, value: Any) -> str:
    if name == STACK:
        return ", ".join(f"{e['class_path'].rsplit('.', 1)[-1]}({_arguments(e.get('init_args'))})" for e in value or []) or "none"
    return json.dumps(value, ensure_ascii=False)


def _arguments(values: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in (values or {}).items() if value is not None)
