"""What the trials of `benchmarks/chaos.py` run, and what they compare: settings, their command lines, and everything that a run left."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROLLOUTS = 4
RANK_TIMEOUT = 6.0
TEMPORARY = (".part", ".partial")
IN_PASSING = (".aer-lightning-",)  # names of temporary folders that a check makes


@dataclass(frozen=True)
class Setting:
    """A run that takes seconds.

    Attributes:
        name: for the report.
        strategy: what the report counts it under.
        world: ranks, each a fork, as torchrun starts them.
        launcher: Lightning starts the other ranks itself.
        engine: generates.
        workers: answers are graded in worker processes.
        steps: optimizer steps per rollout.
        every: rollouts between checkpoints.
    """

    name: str
    strategy: str = "one process"
    world: int = 1
    launcher: bool = False
    engine: str = "TransformersEngine"
    workers: bool = False
    steps: int = 1
    every: int = 1

    @property
    def updates(self) -> int:
        """Optimizer steps of the whole run."""
        return ROLLOUTS * self.steps


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("countdown"),
        Setting("workers", workers=True, steps=2, every=2),
        Setting("ddp", strategy="DDP", world=2, steps=2),
        Setting("fsdp2", strategy="FSDP2", world=2),
        Setting("launcher", strategy="DDP", launcher=True),
        Setting("vllm", engine="VLLMEngine"),
    )
}


def arguments(setting: Setting, run_dir: Path, files: Path, *extra: str) -> list[str]:
    """The command line of a run of a setting; `files` has what `write_files` made."""
    values: dict[str, Any] = {
        "run_dir": run_dir,
        "trainer.max_epochs": 2,
        "trainer.accelerator": "cpu",
        "data.init_args.engine": setting.engine,
        "data.init_args.prompts_per_rollout": 4,
        "data.init_args.responses_per_prompt": 4,
        "data.init_args.optimizer_steps_per_rollout": setting.steps,
        "data.init_args.tokens_per_micro_batch": 256,
        "data.init_args.rollouts_per_epoch": ROLLOUTS // 2,
        "data.init_args.max_new_tokens": 8,
        "data.init_args.eval_samples": 2,
        "data.init_args.eval_ks": "[1, 2]",
        "data.init_args.evaluation.init_args.size": 4,
        "model.init_args.optimizer.init_args.lr": 1e-3,
        "curves.enabled": "false",
        "samples.every": 1,
        "samples.limit": "null",
        "checkpoint.every_n_rollouts": setting.every,
        "rank_timeout": RANK_TIMEOUT,
    }
    if setting.engine == "VLLMEngine":
        values |= {
            f"data.init_args.engine.init_args.{k}": v for k, v in {"kv_cache_gib": 0.125, "max_num_seqs": 16, "step_timeout": 20}.items()
        }
    overlays = ["-c", str(files / "workers.json")] if setting.workers else []
    if setting.world > 1 or setting.launcher:
        overlays += ["-c", f"configs/strategy/{setting.strategy.lower()}.yaml"]
    return ["fit", "-c", "configs/aer.yaml", *overlays, *(f"--{k}={v}" for k, v in values.items()), *extra]


def write_files(folder: Path) -> None:
    """Problems whose answers are graded in worker processes, and the overlay that takes them."""
    rows = [{"id": str(i), "problem": f"{i} {i % 7 + 1}=", "answer": str(i + i % 7 + 1)} for i in range(16)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(folder / "problems.jsonl"), "template": "{problem}:"}
    prompts = {"class_path": "aer_lightning.data.prompts.JsonlPrompts", "init_args": source}
    held_out = {"class_path": "aer_lightning.data.prompts.CountdownPrompts", "init_args": {"split": "validation", "numbers": [2]}}
    overlay = {"data": {"init_args": {"prompts": prompts, "evaluation": [held_out], "verifier_timeout": 20}}}
    (folder / "workers.json").write_text(json.dumps(overlay))


def outcome(run_dir: Path) -> dict[str, str]:
    """A digest of each thing that a run leaves and that does not tell the time: weights and optimizer, metrics, samples, counts, events."""
    from aer_lightning.checkpoints.folder import checkpoints
    from aer_lightning.checkpoints.restore import read_tensors

    newest = checkpoints(run_dir / "checkpoints")[0]
    tensors = hashlib.sha256()
    for name, tensor in sorted(read_tensors(newest, ["model.", "optimizer."]).items()):
        tensors.update(name.encode() + tensor.contiguous().numpy().tobytes())
    with (run_dir / "metrics.csv").open() as file:
        rows = [{k: v for k, v in row.items() if v and "second" not in k} for row in csv.DictReader(file)]
    found = {
        "weights": tensors.hexdigest(),
        "metrics": _digest(json.dumps(rows)),
        "samples": _digest((run_dir / "samples.jsonl").read_bytes()),
        "evaluation": _digest((run_dir / "evaluation.jsonl").read_bytes()),
        "model": _digest((run_dir / "model" / "model.safetensors").read_bytes()),
        "events": _digest(json.dumps(sorted(map(list, events(run_dir))))),
    }
    return found | {name: str((run_dir / name).exists()) for name in ("summary.json", "checkpoints/complete.json", "config.yaml")}


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def events(run_dir: Path) -> Iterator[tuple[int, str, str]]:
    """(step, name, value) of what TensorBoard's files hold, times left out."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    for path in run_dir.glob("events.*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag.startswith(("rollout/", "train/", "aer/", "val/")) and "second" not in value.tag:
                    yield event.step, value.tag, str(tensor_util.make_ndarray(value.tensor))


def leftovers(run_dir: Path, scratch: Path) -> list[str]:
    """Temporary files in a run's folder, and whatever is in its temporary folder."""
    found = [p for p in run_dir.rglob("*") if p.name.startswith(".") and (p.name.endswith(TEMPORARY) or p.name.startswith(IN_PASSING))]
    return [str(path.relative_to(run_dir)) for path in found] + os.listdir(scratch)
