"""Finished runs as ``compare`` takes them: read from their folders, grouped by name, refused where they cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aer_lightning.errors import ConfigError, DataError
from aer_lightning.reporting.counts import SourceCounts, read_evaluation
from aer_lightning.reporting.run_metrics import METRICS_FILE, RunMetrics, read_metrics

CONFIG_FILE = "config.yaml"
# What runs have to share, by section of config.yaml. The rest of `data` is method (advantage, dynamic sampling) or machinery.
TASK = ("prompts", "evaluation", "temperature", "max_prompt_tokens", "max_new_tokens", "eval_samples", "eval_temperature", "eval_top_p")
BUDGET = ("prompts_per_rollout", "responses_per_prompt", "optimizer_steps_per_rollout")
# What a group of seeds may differ in, anywhere in the configuration.
FREE = ("seed", "default_root_dir", "logger", "max_epochs", "max_steps", "accelerator", "devices", "num_nodes", "strategy")


@dataclass
class FinishedRun:
    """One run folder.

    Attributes:
        folder: as given.
        name: of its method.
        seed: of the run, None if the configuration names none.
        config: its resolved configuration.
        metrics: its ``metrics.csv``.
        counts: its ``evaluation.jsonl`` by source; empty without one.
    """

    folder: Path
    name: str
    seed: int | None
    config: dict[str, Any]
    metrics: RunMetrics
    counts: dict[str, SourceCounts]

    @property
    def data(self) -> dict[str, Any]:
        """Options of the data module."""
        return (self.config.get("data") or {}).get("init_args") or {}


@dataclass
class Method:
    """Runs of one name, which differ in their seed alone."""

    name: str
    runs: list[FinishedRun] = field(default_factory=list)

    @property
    def seeds(self) -> int:
        """Number of runs."""
        return len(self.runs)


def read_run(argument: str) -> FinishedRun:
    """Read ``FOLDER`` or ``NAME=FOLDER``; without a name it is the configuration's, or else the folder's.

    Raises:
        DataError: no metrics, no configuration, or no rollout in the folder.
    """
    name, separator, path = argument.partition("=")
    folder = Path(path if separator and not Path(argument).exists() else argument)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folders of finished runs")
    if not (folder / METRICS_FILE).is_file():
        inside = next((depth for depth in ("*", "*/*") if next(folder.glob(f"{depth}/{METRICS_FILE}"), None)), None)
        hint = f"; the runs are inside of it: {folder}/{inside}" if inside else "; is it the folder of a run, with the CSV logger on?"
        raise DataError(f"{folder}: no {METRICS_FILE}, so there is nothing to compare{hint}")
    metrics = read_metrics(folder)
    if not len(metrics):
        raise DataError(f"{folder}: {METRICS_FILE} holds no rollout; compare takes runs of `fit`")
    config = _read_config(folder)
    chosen = name if separator and str(folder) == path else str(config.get("name") or folder.name)
    seed = (config.get("data") or {}).get("init_args", {}).get("seed")
    seed = config.get("seed_everything") if seed is None else seed
    return FinishedRun(
        folder, chosen, seed if isinstance(seed, int) and not isinstance(seed, bool) else None, config, metrics, read_evaluation(folder)
    )


def _read_config(folder: Path) -> dict[str, Any]:
    import yaml

    path = folder / CONFIG_FILE
    if not path.is_file():
        raise DataError(f"{folder}: no {CONFIG_FILE}, so task and budget of the run are unknown; compare takes whole run folders")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not YAML ({' '.join(str(error).split())}); take the file as the run wrote it") from None
    if not isinstance(config, dict):
        raise DataError(f"{path}: holds no configuration; take the file as the run wrote it")
    return config


def group_runs(runs: Sequence[FinishedRun]) -> list[Method]:
    """Methods in the order of their first run.

    Raises:
        ConfigError: the runs are not comparable, or runs of one name differ in more than their seed.
    """
    for run in runs[1:]:
        check_same_task(runs[0], run)
    methods: dict[str, Method] = {}
    for run in runs:
        methods.setdefault(run.name, Method(run.name)).runs.append(run)
    for method in methods.values():
        _check_seeds(method)
    return list(methods.values())


def check_same_task(first: FinishedRun, other: FinishedRun) -> None:
    """Refuse two runs on different tasks or budgets.

    Raises:
        ConfigError: names the folders, what differs, and both values.
    """
    task = {key: (_task_value(first, key), _task_value(other, key)) for key in TASK}
    pretrained = [((run.config.get("model") or {}).get("init_args") or {}).get("pretrained") for run in (first, other)]
    task = {f"data.init_args.{k}": v for k, v in task.items()} | {"model.init_args.pretrained": (pretrained[0], pretrained[1])}
    budget = {f"data.init_args.{key}": (first.data.get(key), other.data.get(key)) for key in BUDGET}
    for what, values in (("task", task), ("budget", budget)):
        if different := [_difference(key, a, b) for key, (a, b) in values.items() if a != b]:
            raise ConfigError(
                f"{other.folder}: another {what} than {first.folder}: {'; '.join(different[:3])}; compare runs of one task and budget"
            )
    a, b = _length(first), _length(other)
    if a != b:
        shorter = other.folder if b < a else first.folder
        raise ConfigError(
            f"{other.folder}: another budget than {first.folder}: {b} rollouts, not {a}; finish {shorter} (fit --ckpt_path) or leave it out"
        )


def _length(run: FinishedRun) -> int:
    return int(run.metrics.index[-1]) + 1


def _task_value(run: FinishedRun, key: str) -> Any:
    value = run.data.get(key)
    if key == "eval_temperature" and value is None:
        return run.data.get("temperature")
    # Another seed of the training prompts draws other problems of the same task; held-out problems have to be the same.
    return _without(value, ("seed",)) if key == "prompts" else value


def _without(value: Any, keys: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, keys) for k, v in value.items() if k not in keys}
    return [_without(v, keys) for v in value] if isinstance(value, list) else value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_seeds(method: Method) -> None:
    """Refuse runs of one name that are different methods, or the same seed twice."""
    first = method.runs[0]
    seen: dict[int, Path] = {}
    for run in method.runs:
        for section in ("trainer", "model", "data"):
            if not _equal(_method_value(first, section), _method_value(run, section)):
                raise ConfigError(
                    f"{run.folder}: has the name {method.name!r} of {first.folder} but differs from it in {_where(first, run, section)}; "
                    f"name it on the command line: OTHER={run.folder}"
                )
        if run.seed is not None:
            if run.seed in seen:
                raise ConfigError(f"{run.folder}: the same name {method.name!r} and seed {run.seed} as {seen[run.seed]}; leave one out")
            seen[run.seed] = run.folder


def _method_value(run: FinishedRun, section: str) -> Any:
    return _without(run.config.get(section), FREE)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return bool(a == b)


def _where(first: FinishedRun, other: FinishedRun, section: str) -> str:
    """The dotted name of the first difference."""
    return _first_difference(section, _method_value(first, section), _method_value(other, section))[0]


def _difference(name: str, a: Any, b: Any) -> str:
    """``name is b, not a`` for the first place in which two values differ."""
    name, a, b = _first_difference(name, a, b)
    return f"{name} is {_short(b)}, not {_short(a)}"


def _first_difference(name: str, a: Any, b: Any) -> tuple[str, Any, Any]:
    """Dotted name and both values, as deep as dictionaries and lists of equal length go."""
    while True:
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            a, b = dict(enumerate(a)), dict(enumerate(b))
        if not (isinstance(a, dict) and isinstance(b, dict)):
            return name, a, b
        key = next(k for k in {**a, **b} if not _equal(a.get(k), b.get(k)))
        name, a, b = f"{name}.{key}", a.get(key), b.get(key)
