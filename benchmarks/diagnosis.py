"""The pictures of docs/diagnosis.md: runs with a fault put into them, beside a healthy one.

    python benchmarks/diagnosis.py

Seven runs of 75 rollouts are made here (about 7 minutes on 2 cores); what a method does of itself (collapse, explosion) is read from the
runs of `make study`. Finished runs are kept. Writes docs/images/diagnosis_*.png.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aer_lightning.errors import DataError, UserError
from aer_lightning.reporting.run_metrics import METRICS_FILE, RunMetrics, read_metrics, smooth
from aer_lightning.reporting.style import INK, MUTED, PALETTE, grid, mark_level, png, style
from aer_lightning.study.command import cores
from aer_lightning.study.configuration import change, merge
from aer_lightning.study.plan import Run, read_plan
from aer_lightning.study.runner import Processes, check_finished, run_all

ROLLOUTS = 75
HEALTHY = "aer/seed1"
ENTROPY = ("rollout/entropy", "entropy H_k (nat)")
ALPHA = ("aer/alpha", "coefficient alpha")
REWARD = ("rollout/reward", "training reward")
PASS = ("pass@1", "held-out pass@1")


@dataclass(frozen=True)
class Symptom:
    """One picture.

    Attributes:
        name: of the file.
        folder: of the run, below the study's runs or below those made here.
        metrics: name and title of each panel.
        made: the run is made here, with these changes to the study's run of AER.
    """

    name: str
    folder: str
    metrics: tuple[tuple[str, str], ...]
    made: dict[str, Any] | None = None


PROMPTS = "data.init_args.prompts.class_path"
SYMPTOMS = (
    Symptom(
        "collapse", "grpo/seed1", (ENTROPY, REWARD, ("rollout/mixed_groups", "share of mixed groups"), ("pass@32", "held-out pass@32"))
    ),
    Symptom("explosion", "search/no_controller/2", (ENTROPY, REWARD, ALPHA, ("rollout/truncated", "share truncated"))),
    Symptom(
        "idle",
        "idle",
        (ENTROPY, ALPHA, ("aer/entropy_over_target", "H_k / H*"), ("aer/applied", "mean coefficient applied")),
        {"EntropyAnchor.tau": 0.3, "GlobalCoefficient.alpha_min": 0.0},
    ),
    Symptom(
        "hunting",
        "hunting",
        (ENTROPY, ALPHA, REWARD, ("rollout/response_length", "response length")),
        {
            "EntropyAnchor.tau": 0.7,
            "GlobalCoefficient.controller": "proportional",
            "GlobalCoefficient.kp": None,
            "GlobalCoefficient.ki": None,
            "GlobalCoefficient.eta": 0.03,
            "GlobalCoefficient.smoothing": 0.0,
            "GlobalCoefficient.alpha_min": 0.0,
            "DifficultyCoefficient.normalize": False,
        },
    ),
    Symptom(
        "saturated",
        "saturated",
        (ENTROPY, ALPHA, ("aer/at_limit", "at a limit (1 alpha_max, -1 zero)"), REWARD),
        {"GlobalCoefficient.alpha_max": 0.02, "GlobalCoefficient.alpha_init": 0.0},
    ),
    Symptom(
        "stale_weights",
        "stale_weights",
        (
            ("rollout/mismatch_logprob", "mean |d logp|, engine and trainer"),
            ("train/importance_ess", "importance weights: ESS"),
            ENTROPY,
            PASS,
        ),
        {"data.init_args.engine.class_path": "faults.StaleEngine", "data.init_args.max_mismatch": 100.0},
    ),
    Symptom(
        "verifier",
        "verifier",
        (REWARD, PASS, ENTROPY, ("rollout/mixed_groups", "share of mixed groups")),
        {PROMPTS: "faults.ValueBlindPrompts"},
    ),
    Symptom(
        "length",
        "length",
        (REWARD, PASS, ("rollout/response_length", "response length"), ("rollout/truncated", "share truncated")),
        {PROMPTS: "faults.LengthPrompts"},
    ),
)


def runs() -> list[Run]:
    """What is made here: the study's AER, evaluated more often."""
    plan = read_plan("configs/study/plan.yaml")
    base = plan.configuration(plan.methods["aer"], {"aer": plan.methods["aer"].candidates[0]})
    often = {
        "data.init_args.eval_samples": 16,
        "data.init_args.eval_ks": [1, 8],
        "trainer.max_epochs": ROLLOUTS // base["data"]["init_args"]["rollouts_per_epoch"],
        "trainer.check_val_every_n_epoch": 1,
        "initial_validation.enabled": True,
    }
    made = []
    for symptom in SYMPTOMS:
        if symptom.made is not None:
            config = change(merge(base, {"name": symptom.name}), often | symptom.made)
            made.append(Run(symptom.name, "run", Path(symptom.folder), config, ROLLOUTS))
    healthy = change(merge(base, {"name": "healthy"}), often)
    return [Run("healthy", "run", Path("healthy"), healthy, ROLLOUTS), *made]


def values(run: RunMetrics, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Abscissa and ordinate of one panel: rollouts, or evaluations for a held-out figure."""
    if metric.startswith("pass@"):
        (source,) = run.sources()
        return run.evaluated(source, metric)
    return run.index + 1, smooth(run.column(metric), 5)


def draw(symptom: Symptom, sick: RunMetrics, healthy: RunMetrics, out: Path) -> None:
    """One row of panels: the run in question in colour, the healthy one in grey."""
    shown = [(metric, title) for metric, title in symptom.metrics if not np.isnan(values(sick, metric)[1]).all()]
    with style():
        figure, axes = grid(len(shown), 4, width=3.1, height=2.5)
        for panel, (metric, title) in zip(axes, shown, strict=True):
            for run, color, label, width in ((healthy, MUTED, "healthy", 1.3), (sick, PALETTE[1], symptom.name.replace("_", " "), 2.0)):
                x, y = values(run, metric)
                marker = "o" if metric.startswith("pass@") else ""
                panel.plot(x, y, color=color, label=label, linewidth=width, marker=marker, markersize=4)
            if metric == ENTROPY[0]:
                mark_level(panel, sick.target, "H*", color=INK)
            panel.set_title(title, fontsize=9.5)
            panel.set_xlim(0, max(len(sick), 1))
            panel.set_ylim(bottom=min(0.0, panel.get_ylim()[0]))
            panel.set_xlabel("rollout", fontsize=8.5)
        axes[0].legend(loc="best")
        out.mkdir(parents=True, exist_ok=True)
        (out / f"diagnosis_{symptom.name}.png").write_bytes(png(figure, dpi=90))


def main() -> int:
    """Run what is missing, draw everything; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--study", default="runs/study", metavar="DIR", help="run folders of the study")
    parser.add_argument("--runs", default="runs/diagnosis", metavar="DIR", help="where the runs made here go")
    parser.add_argument("--out", default="docs/images", metavar="DIR", help="where the pictures go")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes, one core each")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        made, root = runs(), Path(options.runs)
        check_finished(made, root)
        if failed := run_all(made, root, options.jobs, Processes(), lambda _: 120.0):
            raise DataError(f"{'; '.join(failed)}; run it again to go on")
        for symptom in SYMPTOMS:
            of_study = symptom.made is None
            folder, healthy = (Path(options.study), HEALTHY) if of_study else (root, "healthy")
            if of_study and not (folder / symptom.folder / METRICS_FILE).is_file():
                raise DataError(f"{folder / symptom.folder}: no {METRICS_FILE}; run make study first, or give its runs with --study")
            draw(symptom, read_metrics(folder / symptom.folder), read_metrics(folder / healthy), Path(options.out))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
