"""The figures of a finished run that its summary tells."""

from __future__ import annotations

from typing import Any

import numpy as np

from aer_lightning.reporting.run_metrics import Evaluation, RunMetrics

RECENT = 10  # rollouts that a "recent" mean is taken over


def summarize(run: RunMetrics, seconds: dict[str, float], sequences: int | None = None) -> dict[str, Any]:
    """Facts of a run: plain dictionaries, lists and numbers; NaN where something was not logged.

    Args:
        run: what was logged.
        seconds: time of fitting: ``total``, ``training``, ``evaluation``.
        sequences: completions per rollout, for tokens per second.
    """
    entropy, reward = run.column("rollout/entropy"), run.column("rollout/reward")
    correct = run.column("rollout/correct")
    before = next((e for e in run.evaluations if e.rollouts == 0), None)
    after = run.evaluations[-1] if run.evaluations else None
    window = min(RECENT, len(run))
    return {
        "rollouts": len(run),
        "seconds": seconds,
        "evaluation": {source: _rows(run, source, before, after) for source in run.sources()},
        "entropy": {
            "initial": run.anchor,
            "target": run.target,
            "last": run.last("rollout/entropy"),
            "recent": _mean(entropy[-RECENT:]),
            "window": window,
        },
        "alpha": run.last("aer/alpha"),
        "accuracy": {"first": _mean(correct[:RECENT]), "recent": _mean(correct[-RECENT:])},
        "reward": {"first": _mean(reward[:RECENT]), "recent": _mean(reward[-RECENT:])},
        "tokens_per_second": rates(run, seconds["training"], sequences),
    }


def rates(run: RunMetrics, seconds: float, sequences: int | None) -> dict[str, float]:
    """Trained tokens per second of generating and grading them, and of training as a whole (generation, scoring and updates)."""
    spent = run.column("rollout/generate_seconds")
    generated = run.column("rollout/generate_tokens_per_second") * spent
    known = ~np.isnan(generated)
    tokens = float(generated[known].sum())
    if sequences is not None and not known.any():
        tokens = float(np.nansum(run.column("rollout/response_length"))) * sequences
    return {
        "generation": tokens / float(spent[known].sum()) if known.any() and spent[known].sum() > 0 else float("nan"),
        "training": tokens / seconds if seconds > 0 and len(run) else float("nan"),
    }


def shown_ks(run: RunMetrics, source: str) -> list[int]:
    """pass@1, pass@8 and the largest k, as far as they were logged."""
    ks = run.ks(source)
    return [k for k in ks if k in (1, 8) or k == ks[-1]]


def _rows(run: RunMetrics, source: str, before: Evaluation | None, after: Evaluation | None) -> list[dict[str, Any]]:
    """Overall, then each label: pass@k before (empty if there was no evaluation before training) and after."""

    def figures(evaluation: Evaluation | None, label: str) -> dict[str, float]:
        found = evaluation.sources.get(source, {}) if evaluation is not None else {}
        names = {str(k): f"{label}/pass@{k}" if label else f"pass@{k}" for k in shown_ks(run, source)}
        return {k: found[name] for k, name in names.items() if name in found}

    return [
        {"label": label, "before": figures(before, label), "after": figures(after, label)} for label in ["", *sorted(run.labels(source))]
    ]


def _mean(values: Any) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
