"""The progress bar of a run: rollout, reward, H / H*, alpha, tokens per second; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomBarColumn, CustomTimeColumn, RichProgressBarTheme
from rich.progress import TextColumn

from aer_lightning.callbacks.summary import duration
from aer_lightning.errors import ConfigError
from aer_lightning.rollout import RolloutBatch


class RolloutProgressBar(RichProgressBar):
    """Lightning's rich bar with the figures of the last rollout; one plain line per so many rollouts where output is no terminal.

    Args:
        every: rollouts per line where output goes to a file or a pipe; 0 for none.
        refresh_rate: of the bar on a terminal, per second; 0 turns the bar off.
        leave: keep the finished bar of every epoch on the terminal.

    Raises:
        ConfigError: a number is negative.
    """

    def __init__(self, every: int = 10, refresh_rate: int = 10, leave: bool = False) -> None:
        if every < 0:
            raise ConfigError(f"progress.every: must be at least 1, or 0 for no lines, got {every}")
        if refresh_rate < 0:
            raise ConfigError(f"progress.refresh_rate: must be at least 1 per second, or 0 for no bar, got {refresh_rate}")
        theme = RichProgressBarTheme(progress_bar="#0b6e99", progress_bar_finished="#0b6e99", metrics="", metrics_text_delimiter="  ")
        super().__init__(refresh_rate=refresh_rate, leave=leave, theme=theme)
        self.every = every
        self.plain = False
        self._began: tuple[float, int] | None = None  # seconds and rollouts when training started here

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose between the bar and lines."""
        super().setup(trainer, pl_module, stage)
        from rich import get_console

        console = get_console()
        if not (console.is_terminal or console.is_jupyter):
            self.plain = True
            self.disable()

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """Place for the figures: a short bar, elapsed and remaining time of the epoch; neither on a narrow terminal."""
        if self._narrow():
            return [TextColumn("{task.description}")]
        return [
            TextColumn("{task.description}"),
            CustomBarColumn(
                bar_width=16,
                complete_style=self.theme.progress_bar,
                finished_style=self.theme.progress_bar_finished,
                pulse_style=self.theme.progress_bar_pulse,
            ),
            CustomTimeColumn(style=self.theme.time),
        ]

    def _get_train_description(self, current_epoch: int) -> str:
        return self._rollouts_done(self.trainer)

    @staticmethod
    def _rollouts_done(trainer: pl.Trainer) -> str:
        done, total = getattr(trainer.datamodule, "rollouts", 0), total_rollouts(trainer)  # type: ignore[attr-defined]
        return f"rollout {done}/{total}" if total else f"rollout {done}"

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What stands beside the bar; the rollout's number stands before it."""
        left = ("rollout", "tokens/s") if self._narrow() else ("rollout",)
        shown = {name: text for name, text in figures(trainer.callback_metrics).items() if name not in left}
        return shown | self._left(trainer)

    @staticmethod
    def _narrow() -> bool:
        from rich import get_console

        return get_console().width < 120

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of what is left of the run."""
        super().on_train_start(trainer, pl_module)
        self._began = (time.perf_counter(), getattr(trainer.datamodule, "rollouts", 0))  # type: ignore[attr-defined]

    def _left(self, trainer: pl.Trainer) -> dict[str, str]:
        """What is left of the run at the pace so far, evaluations included."""
        done, total = getattr(trainer.datamodule, "rollouts", 0), total_rollouts(trainer)  # type: ignore[attr-defined]
        if self._began is None or total is None or done <= self._began[1]:
            return {}
        pace = (time.perf_counter() - self._began[0]) / (done - self._began[1])
        return {"left": duration((total - done) * pace)}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the bar, or print a line at the end of a rollout."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, description=self._rollouts_done(trainer))
        if not self._prints(trainer) or not isinstance(batch, RolloutBatch) or not batch.last:
            return
        done = batch.info.index + 1
        if done == 1 or done % self.every == 0 or done == total_rollouts(trainer):
            shown = figures(trainer.callback_metrics, total_rollouts(trainer)) | self._left(trainer)
            self._line("  ".join(f"{name} {value}" for name, value in shown.items()))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the main figures of an evaluation."""
        super().on_validation_end(trainer, pl_module)
        if not trainer.is_global_zero or trainer.sanity_checking or (self.plain and not self.every):
            return
        parts = evaluation_parts(trainer.callback_metrics)
        if parts:
            done = getattr(trainer.datamodule, "rollouts", 0)  # type: ignore[attr-defined]
            when = f"after {done} rollouts" if trainer.state.fn == "fit" else "evaluation"
            self._line(f"{when}: {'; '.join(parts)}", self.progress)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the finished bar above what is printed at the end of a run."""
        self._stop_progress()

    def _prints(self, trainer: pl.Trainer) -> bool:
        return self.plain and self.every > 0 and trainer.is_global_zero

    @staticmethod
    def _line(text: str, bar: Any = None) -> None:
        if bar is not None:
            bar.console.print(text, highlight=False, soft_wrap=True)  # above the bar
        else:
            print(text, flush=True)


def total_rollouts(trainer: pl.Trainer) -> int | None:
    """Rollouts of the whole run by its limits on epochs and steps, None if it has neither."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    per_epoch, sizes = getattr(data, "rollouts_per_epoch", None), getattr(data, "sizes", None)
    limits = []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and per_epoch is not None:
        limits.append(trainer.max_epochs * per_epoch)
    if trainer.max_steps >= 0 and sizes is not None:
        limits.append(-(-trainer.max_steps // sizes.steps))
    return min(limits) if limits else None


def figures(metrics: Mapping[str, Any], total: int | None = None) -> dict[str, str]:
    """Name and text of each figure that has been logged."""
    value = {k: float(v) for k, v in metrics.items() if k.startswith(("rollout/", "aer/", "feedback/"))}
    shown: dict[str, str] = {}
    if "rollout/index" in value:
        done = int(value["rollout/index"]) + 1
        shown["rollout"] = f"{done}/{total}" if total else str(done)
    if "rollout/reward" in value:
        shown["reward"] = f"{value['rollout/reward']:.3f}"
    if "rollout/entropy" in value:
        if "aer/target_entropy" in value:
            shown["H/H*"] = f"{value['rollout/entropy']:.3f}/{value['aer/target_entropy']:.3f}"
        else:
            shown["H"] = f"{value['rollout/entropy']:.3f}"
    if "aer/alpha" in value:
        shown["alpha"] = f"{value['aer/alpha']:.4f}"
    shown |= {k.removeprefix("feedback/"): f"{v:.4g}" for k, v in value.items() if k.startswith("feedback/") and k != "feedback/at_limit"}
    if "rollout/generate_tokens_per_second" in value:
        shown["tokens/s"] = f"{value['rollout/generate_tokens_per_second']:,.0f}"
    return shown


def evaluation_parts(metrics: Mapping[str, Any]) -> list[str]:
    """``source pass@1 .. pass@8 ..`` for each held-out source."""
    from aer_lightning.reporting.run_metrics import split_sources

    values = {f"val/{k.partition('/')[2]}": float(v) for k, v in metrics.items() if k.startswith(("val/", "test/"))}
    parts = []
    for source, found in split_sources(values).items():
        ks = sorted(int(name[5:]) for name in found if name.startswith("pass@") and name[5:].isdigit())
        if ks:
            parts.append(" ".join([source, *(f"pass@{k} {found[f'pass@{k}']:.3f}" for k in ks)]))
    return parts
