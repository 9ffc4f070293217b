"""``python -m aer_lightning export CHECKPOINT FOLDER``: a checkpoint of a run as a Hugging Face model folder, with a model card."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aer_lightning.callbacks.export import save_model
from aer_lightning.checkpoints.folder import MANIFEST, read_manifest
from aer_lightning.checkpoints.restore import check_path, is_checkpoint_folder, read_state, read_tensors, weights
from aer_lightning.checkpoints.state import MODEL
from aer_lightning.data.tokenizer import load_tokenizer
from aer_lightning.errors import ConfigError, DataError, UserError
from aer_lightning.modules.loading import DTYPES
from aer_lightning.modules.policy import PolicyModule
from aer_lightning.reporting.run_metrics import METRICS_FILE, Evaluation, read_metrics


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m aer_lightning export",
        description="Write the policy of a checkpoint as a Hugging Face model folder: weights (adapters merged), config, generation "
        "config, tokenizer with its chat template, and a model card.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint of a run: RUN/checkpoints/last.ckpt, or a plain .ckpt file")
    parser.add_argument("folder", metavar="FOLDER", help="folder to write, which must not exist yet")
    parser.add_argument("--dtype", choices=list(DTYPES), default=None, help="of the written weights; as trained if left out")
    parser.add_argument("--model", metavar="FOLDER", default=None, help="the base model, if it is elsewhere than when the run began")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the command; returns the exit status: 0, or 2 for what the user can mend, said in one line."""
    try:
        options = parse(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        export(Path(options.checkpoint), Path(options.folder), options.dtype, options.model)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"the policy of {options.checkpoint} is in {options.folder}")
    return 0


def export(checkpoint: Path, folder: Path, dtype: str | None = None, model: str | None = None) -> None:
    """Write the policy of a checkpoint.

    Args:
        checkpoint: a checkpoint folder of this package, or a file of Lightning's.
        folder: made; must not exist, or be empty.
        dtype: of the written weights, one of ``DTYPES``; as trained if None.
        model: the base model, if it moved.

    Raises:
        ConfigError: the folder is taken.
        DataError: the checkpoint is not whole, or is none of this base model.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"export: {folder} exists and is not empty; choose another folder, nothing was written")
    check_path(checkpoint)
    options, state = read(checkpoint)
    if model is not None:
        options["pretrained"] = model
    module = PolicyModule(**options)
    module.configure_model()
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).splitlines()[1].split())[:200]
        raise DataError(
            f"export: {checkpoint} is no checkpoint of {module.pretrained} ({first}); name its base model with --model"
        ) from None
    cast = DTYPES[dtype] if dtype is not None else None
    tensors = {name: tensor.to(cast) if tensor.is_floating_point() and cast else tensor for name, tensor in module.full_weights()}
    folder.mkdir(parents=True, exist_ok=True)
    assert module.policy is not None
    save_model(module.policy.model, tensors, load_tokenizer(str(module.model_folder()), module.trust_remote_code), folder)
    facts = read_manifest(checkpoint) if (checkpoint / MANIFEST).is_file() else {}
    written = dtype or str(next(t.dtype for t in tensors.values() if t.is_floating_point())).removeprefix("torch.")
    (folder / "README.md").write_text(card(str(options["pretrained"]), facts, evaluations(checkpoint, facts), written), encoding="utf-8")


def read(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options of the policy module and its weights.

    Raises:
        DataError: the checkpoint does not say what it was made of.
    """
    if is_checkpoint_folder(checkpoint):
        state = read_state(checkpoint)
        found = weights(read_tensors(checkpoint, (MODEL,)), state["aliases"])
    else:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        found = state["state_dict"]
    if "hyper_parameters" not in state:
        raise DataError(f"export: {checkpoint} does not name its base model; it was written by another version or program")
    known = ("pretrained", "lora", "dtype", "trust_remote_code")
    return {name: value for name, value in state["hyper_parameters"].items() if name in known}, found


def evaluations(checkpoint: Path, facts: Mapping[str, Any]) -> list[Evaluation]:
    """The first evaluation of the run and the last one up to the checkpoint; none where the run's metrics are not beside it."""
    folder = checkpoint.resolve().parent.parent
    if not (folder / METRICS_FILE).is_file():
        return []
    done = [e for e in read_metrics(folder).evaluations if e.rollouts <= facts.get("rollouts", sys.maxsize)]
    return done[:1] if len(done) < 2 else [done[0], done[-1]]


def card(base: str, facts: Mapping[str, Any], measured: Sequence[Evaluation], dtype: str) -> str:
    """The model card: what the model is, how it was trained, and what was measured of it.

    Args:
        base: name of the base model.
        facts: manifest of the checkpoint; empty for a plain file.
        measured: evaluations before and after training.
        dtype: of the weights.
    """
    configuration = facts.get("configuration", {})
    stack = [entry["class_path"].rsplit(".", 1)[-1] for entry in configuration.get("trainer.callbacks") or []]
    objective = configuration.get("model.init_args.objective.class_path") or "aer_lightning.algorithms.objectives.ClipObjective"
    data = configuration.get("data.init_args.prompts.class_path")
    lines = [
        *("---", f"base_model: {json.dumps(base)}", "library_name: transformers", "tags: [reinforcement-learning, rlvr, aer]", "---", ""),
        f"# {Path(base).name}, trained with verifiable rewards",
        "",
        f"- **Base model**: `{base}`",
        f"- **Method**: {', '.join(stack) or 'no entropy term'}; objective {objective.rsplit('.', 1)[-1]}",
        f"- **Data**: {data.rsplit('.', 1)[-1] if data else 'not recorded'}",
    ]
    if facts:
        lines.append(f"- **Training**: {facts['rollouts']} rollouts, {facts['step']} optimizer steps, on {facts['world_size']} process(es)")
    lines += [f"- **Weights**: {dtype}", f"- **Made by**: aer_lightning {facts.get('package', '')}".rstrip(), "", "## Measured", ""]
    lines += _table(measured) or ["Nothing was measured beside this checkpoint."]
    if configuration:
        lines += ["", "## Configuration", "", "```"]
        lines += [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in configuration.items() if value is not None]
        lines += ["```"]
    return "\n".join(lines) + "\n"


def _table(measured: Sequence[Evaluation]) -> list[str]:
    if not measured:
        return []
    head = "| held-out problems | figure |" + "".join(f" after {e.rollouts} rollouts |" for e in measured)
    rows = [head, "|---|---|" + "---:|" * len(measured)]
    last = measured[-1]
    for source, figures in last.sources.items():
        for name in sorted((n for n in figures if n.startswith("pass@") and n[5:].isdigit()), key=lambda n: int(n[5:])):
            cells = (f" {value:.3f} |" if (value := e.sources.get(source, {}).get(name)) is not None else " – |" for e in measured)
            rows.append(f"| {source} | {name} |" + "".join(cells))
    return rows
