"""What a run came to: a short table at its end, and ``summary.json``."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from aer_lightning.callbacks.run_files import logged_metrics, plain, run_folder
from aer_lightning.reporting.summary import summarize

FILES = {
    "curves": "curves.png",
    "metrics": "metrics.csv",
    "samples": "samples.jsonl",
    "evaluation": "evaluation.jsonl",
    "configuration": "config.yaml",
    "checkpoints": "checkpoints",
    "model": "model",
    "tensorboard": "events.out.tfevents.*",
}


class Summary(pl.Callback):
    """Prints pass@k before and after, overall and by label, H_0, H*, the last H, alpha, tokens per second, time and files.

    The same goes to ``<run folder>/summary.json``. Time is that of fitting, over all parts of a resumed run.

    Args:
        enabled: whether to print and write.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._earlier = {"total": 0.0, "training": 0.0, "evaluation": 0.0}
        self._since: dict[str, float] = {}

    def seconds(self) -> dict[str, float]:
        """Seconds so far: ``total``, ``training`` (rollouts and updates, checkpoints included) and ``evaluation``; the rest is start-up."""
        now = time.perf_counter()
        return {name: spent + now - self._since.get(name, now) for name, spent in self._earlier.items()}

    def _stop(self, name: str) -> None:
        self._earlier[name] = self.seconds()[name]
        self._since.pop(name, None)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the clock."""
        if stage == "fit":
            self._since = {"total": time.perf_counter()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training begins."""
        self._since["training"] = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training pauses for an evaluation."""
        self._stop("training")
        self._since["evaluation"] = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training goes on."""
        self._stop("evaluation")
        self._since["training"] = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training is over."""
        self._stop("training")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print and write, when every other file has been written."""
        if not self.enabled or not trainer.is_global_zero:
            return
        run = logged_metrics(trainer)
        folder = run_folder(trainer)
        sequences = getattr(getattr(trainer.datamodule, "sizes", None), "sequences", None)  # type: ignore[attr-defined]
        facts = summarize(run, self.seconds(), sequences) | {"folder": str(folder.absolute()), "files": existing(folder)}
        (folder / "summary.json").write_text(json.dumps(_json(facts), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        from rich import get_console

        console = get_console()
        for part in render(facts):
            console.print(part, soft_wrap=True)

    def state_dict(self) -> dict[str, Any]:
        """Seconds so far, so that a resumed run adds to them."""
        return self.seconds()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seconds back."""
        self._earlier = dict(state_dict)


def existing(folder: Path) -> dict[str, str]:
    """The run's files by what they are, as far as they are there."""
    found = {what: sorted(path.name for path in folder.glob(pattern)) for what, pattern in FILES.items()}
    return {what: names[-1] for what, names in found.items() if names}


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_json(v) for v in value]
    return plain(value)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def render(facts: dict[str, Any]) -> list[Any]:
    """The summary as things that rich prints."""
    from rich.table import Table

    parts: list[Any] = []
    ks = sorted({int(k) for rows in facts["evaluation"].values() for row in rows for k in row["after"]})
    if ks:
        table = Table(title="held-out problems, before → after", title_justify="left", title_style="bold", header_style="bold")
        table.add_column("problems")
        for k in ks:
            table.add_column(f"pass@{k}", justify="right")
        for source, rows in facts["evaluation"].items():
            for row in rows:
                cells = [f"{_number(row['before'].get(str(k)))} → {_number(row['after'].get(str(k)))}" for k in ks]
                name = f"  {row['label']}" if row["label"] else source
                table.add_row(name, *cells, style=None if row["label"] else "bold")
        parts.append(table)
    entropy, speed, spent = facts["entropy"], facts["tokens_per_second"], facts["seconds"]
    lines = [
        f"entropy    H_0 {_number(entropy['initial'])}   H* {_number(entropy['target'])}   last H {_number(entropy['last'])}"
        f" (mean of the last {entropy['window']}: {_number(entropy['recent'])}) nat",
        f"alpha      {_number(facts['alpha'], 4)}",
        f"reward     {_number(facts['reward']['first'])} → {_number(facts['reward']['recent'])}",
        *(
            [f"correct    {_number(facts['accuracy']['first'])} → {_number(facts['accuracy']['recent'])}"]
            if _number(facts["accuracy"]["recent"]) != _number(facts["reward"]["recent"])
            else []
        ),
        f"tokens/s   generation {_number(speed['generation'], 0)}   training as a whole {_number(speed['training'], 0)}",
        f"time       {duration(spent['total'])} for {facts['rollouts']} rollouts"
        f" (training {duration(spent['training'])}, evaluation {duration(spent['evaluation'])})",
        f"files      {facts['folder']}: {', '.join(facts['files'].values())}",
    ]
    return [*parts, *lines]


def duration(seconds: float) -> str:
    """``h:mm:ss``."""
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{s:02d}"
