"""What ``validate`` and ``test`` came to: one table, printed and saved, and the graded completions behind it."""

from __future__ import annotations

import json
import time
from typing import Any

import lightning.pytorch as pl

from aer_lightning.callbacks.evaluation_log import interleave
from aer_lightning.callbacks.run_files import append_jsonl, run_folder
from aer_lightning.distributed import gather_objects
from aer_lightning.reporting.evaluation_table import EvaluationResult, SourceResult
from aer_lightning.rollout import EvaluationBatch


class EvaluationReport(pl.Callback):
    """Prints the table of an evaluation and writes it to ``<run folder>/evaluation.md`` and ``evaluation.json``.

    The files hold what was measured and how it was sampled, and no times: the same seeds give the same files. Evaluations within
    ``fit`` are left to ``EvaluationLog`` and the summary.

    Args:
        enabled: whether to print and write.
        completions: also write every graded completion to ``<run folder>/completions.jsonl``.
    """

    def __init__(self, enabled: bool = True, completions: bool = True) -> None:
        self.enabled, self.completions = enabled, completions
        self._rows: list[dict[str, Any]] = []
        self._since = 0.0

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._rows, self._since = [], time.perf_counter()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the batch's rows, one problem's in one piece."""
        if self._active(trainer) and isinstance(batch, EvaluationBatch):
            per_problem: dict[str, list[dict[str, Any]]] = {}
            for row in batch.rows:
                per_problem.setdefault(row["id"], []).append(row)
            self._rows += [
                {"source": batch.source, "rows": rows if self.completions else [], "samples": len(rows)} for rows in per_problem.values()
            ]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print and write. Collective."""
        if not self._active(trainer):
            return
        problems = interleave(gather_objects(self._rows))
        self._rows = []
        if not trainer.is_global_zero or not problems:
            return
        result = collect(trainer, pl_module)
        folder = run_folder(trainer)
        lines = result.lines()
        (folder / "evaluation.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "evaluation.json").write_text(json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.completions:
            append_jsonl(folder / "completions.jsonl", (row for problem in problems for row in problem["rows"]))
        print("\n" + "\n".join(line.rstrip() for line in lines))
        drawn, seconds = sum(p["samples"] for p in problems), time.perf_counter() - self._since
        print(f"{drawn} completions of {len(problems)} problems in {seconds:.0f} s; files in {folder.absolute()}")

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_end = on_validation_end

    def _active(self, trainer: pl.Trainer) -> bool:
        return self.enabled and trainer.state.fn is not None and trainer.state.fn.value in ("validate", "test")


def collect(trainer: pl.Trainer, pl_module: pl.LightningModule) -> EvaluationResult:
    """The figures that the evaluation logged, with what it was sampled with."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    prefix = "test/" if trainer.state.fn is not None and trainer.state.fn.value == "test" else "val/"
    logged = {k.removeprefix(prefix): float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
    sampling = data.eval_sampling
    return EvaluationResult(
        model=str(getattr(pl_module, "pretrained", "")),
        checkpoint=str(trainer.ckpt_path) if trainer.ckpt_path else None,
        samples=data.eval_samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        seed=data.seed,
        sources={
            name: SourceResult(
                problems=facts["problems"],
                figures={k.removeprefix(f"{name}/"): v for k, v in logged.items() if k.startswith(f"{name}/")},
                bad_gold=facts["bad_gold"],
                too_long=facts["too_long"],
            )
            for name, facts in data.evaluation_facts().items()
        },
    )
