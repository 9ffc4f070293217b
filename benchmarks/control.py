"""The measurements of docs/control.md: controllers, targets, learning rates and difficulty weights in the study's setting.

    python benchmarks/control.py [--only GROUP...]

32 runs, most of 150 rollouts, 3 minutes each on one core; finished runs are kept, interrupted ones go on. Writes docs/control.csv, the
tables of docs/control.md and docs/images/control_*.png, from the runs that have finished.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from kernels_common import replace_section, table

from aer_lightning.algorithms.controllers import PIController
from aer_lightning.errors import UserError
from aer_lightning.reporting.plant import Gains, Plant, identify, simulate
from aer_lightning.reporting.run_metrics import RunMetrics, read_metrics
from aer_lightning.reporting.statistics import estimate
from aer_lightning.reporting.style import INK, PALETTE, grid, png, style
from aer_lightning.reporting.tracking import BAND, Tracking, moving_mean, track
from aer_lightning.study.command import cores
from aer_lightning.study.configuration import change, read_yaml
from aer_lightning.study.plan import Run, read_plan
from aer_lightning.study.runner import Processes, check_finished, finished, run_all

ROLLOUTS, TAUS = 150, (0.3, 0.5, 0.7)
UNTOUCHED = (41, 42, 43)  # no run of these seeds was seen before gains, limits and the rule for the rate were fixed
FORMER = {"controller": "proportional", "eta": 0.03, "alpha_init": 0.05, "alpha_max": 1.0}  # the controller that pi has replaced
RATE = "model.init_args.optimizer.init_args.lr"
SHOWN = (("rms", 3), ("entry", 0), ("swing", 3), ("at_limit", 2), ("alpha", 3), ("in_band_late", 2))
WEIGHTS = {"pi_tau_0.5": "hinge", "gate": "gate", "linear": "linear", "uniform": "uniform", "hinge_raw": "hinge, not normalised"}
NONE = "None of these runs has finished."
GROUPS = ("targets", "default", "rates", "weights", "former")


@dataclass(frozen=True)
class Case:
    """One line of the plan.

    Attributes:
        group: which question it belongs to.
        name: of its runs.
        changes: single options over the study's AER.
        seeds: one run each.
    """

    group: str
    name: str
    changes: dict[str, Any]
    seeds: Sequence[int] = UNTOUCHED


def cases() -> list[Case]:
    """All of them, in the order in which they are run."""
    out = [Case("targets", f"pi_tau_{tau}", {"EntropyAnchor.tau": tau}) for tau in TAUS]
    out.append(Case("default", "default", {}, UNTOUCHED[:2]))
    for name, rate in (("low", 3.2e-5), ("high", 3.2e-4)):
        out += [Case("rates", f"pi_lr_{name}_tau_{tau}", {"EntropyAnchor.tau": tau, RATE: rate}, (44,)) for tau in TAUS]
    weights = [("uniform", True), ("hinge", False), ("linear", True), ("gate", True)]
    out += [
        Case(
            "weights",
            f"{shape}{'' if normalize else '_raw'}",
            {"EntropyAnchor.tau": 0.5, "DifficultyCoefficient.shape": shape, "DifficultyCoefficient.normalize": normalize},
        )
        for shape, normalize in weights
    ]
    former = {"DifficultyCoefficient.normalize": False}
    out += [Case("former", f"proportional_tau_{tau}", {"EntropyAnchor.tau": tau, **former}, UNTOUCHED[:1]) for tau in TAUS]
    return out


def run_of(case: Case, seed: int) -> Run:
    """The configuration of one run; the default one is configs/aer.yaml as it is, but for the engine (one core has no use for vLLM's)."""
    if case.group == "default":
        config = read_yaml("configs/aer.yaml")
        engine = {"class_path": "aer_lightning.data.engines.TransformersEngine"}
        config = change(config, {"name": "default", "trainer.accelerator": "cpu", "data.init_args.engine": engine, "seed_everything": seed})
        rollouts = config["trainer"]["max_epochs"] * config["data"]["init_args"]["rollouts_per_epoch"]
        return Run(case.name, f"seed{seed}", Path(case.name, f"seed{seed}"), config, rollouts)
    plan = read_plan("configs/study/plan.yaml")
    config = plan.configuration(plan.methods["aer"], {"aer": plan.methods["aer"].candidates[0]})
    callbacks = config["trainer"]["callbacks"]
    if case.group == "former":
        callbacks[1]["init_args"] = dict(FORMER)
    epochs = ROLLOUTS // config["data"]["init_args"]["rollouts_per_epoch"]
    fixed = {"name": case.name, "trainer.max_epochs": epochs, "trainer.check_val_every_n_epoch": epochs}
    seeds = {"seed_everything": seed, "data.init_args.prompts.init_args.seed": seed}
    return Run(case.name, f"seed{seed}", Path(case.name, f"seed{seed}"), change(config, {**case.changes, **fixed, **seeds}), ROLLOUTS)


def runs_of(name: str, root: Path) -> list[tuple[int, RunMetrics]]:
    """Finished runs of a case by seed."""
    (case,) = (case for case in cases() if case.name == name)
    return [(seed, read_metrics(root / name / f"seed{seed}")) for seed in case.seeds if finished(root / name / f"seed{seed}")]


def write_table(root: Path, path: Path) -> None:
    """One row per finished run: how it tracked, how its entropy answered to the mean coefficient (b of ``reporting.plant``), its scores."""
    names = [f.name for f in fields(Tracking)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["group", "case", "seed", *names, "in_band_late", "answer", "answer_error", "reward", "pass@1", "pass@32"])
        for case in cases():
            for seed, run in runs_of(case.name, root):
                tracked = asdict(track(run))
                plant = identify(run.column("rollout/entropy"), run.column("aer/mean_coefficient"))
                scores = [run.evaluated(source, k)[1] for source in run.sources()[:1] for k in ("pass@1", "pass@32")]
                last = [float(s[-1]) if len(s) else float("nan") for s in scores or [[], []]]
                late = run.column("rollout/entropy")[len(run) // 2 :]
                in_band = float(np.mean(np.abs(late / run.target - 1) <= BAND))
                figures = [
                    *tracked.values(),
                    in_band,
                    plant.gain,
                    plant.gain_error,
                    float(np.mean(run.column("rollout/reward")[-10:])),
                    *last,
                ]
                writer.writerow([case.group, case.name, seed, *(f"{v:.4g}" for v in figures)])


LABELS = {
    **{f"pi_tau_{tau}": f"tau {tau}" for tau in TAUS},
    "default": "default run",
    **{f"pi_lr_{name}_tau_{tau}": f"tau {tau}, learning rate {sign} 3.2" for name, sign in (("low", "/"), ("high", "x")) for tau in TAUS},
    **{f"proportional_tau_{tau}": f"proportional, tau {tau}" for tau in TAUS},
}


def write_page(path: Path, page: Path) -> None:
    """The tables of docs/control.md from control.csv: tracking and the entropy's answer by run, and what the weights' shapes come to."""
    rows = list(csv.DictReader(path.open()))
    tracked = [
        [
            LABELS[row["case"]],
            row["seed"],
            *(f"{float(row[key]):.{digits}f}" for key, digits in SHOWN),
            f"{float(row['answer']):.2f} ± {float(row['answer_error']):.2f}",
        ]
        for row in rows
        if row["case"] in LABELS
    ]
    header = ["run", "seed", "rms", "entry", "swing", "at a limit", "mean alpha", "in band, late", "b"]
    replace_section(page, "tracking", table(header, tracked) if tracked else NONE)
    shapes = []
    for name, label in WEIGHTS.items():
        mine = [row for row in rows if row["case"] == name]
        cells = [estimate([float(row[key]) for row in mine]) for key in ("rms", "pass@1", "pass@32", "reward", "alpha")]
        if mine:
            shapes.append([label, *(f"{c.mean:.3f}" + (f" ± {c.error:.3f}" if c.seeds > 1 else "") for c in cells), str(len(mine))])
    replace_section(page, "simulated", simulated())
    header = ["weights", "rms", "pass@1", "pass@32", "last reward", "mean alpha", "seeds"]
    replace_section(page, "weights", table(header, shapes) if len(shapes) > 1 else NONE)


# b, c, wander and noise that were identified in runs of the study at each target, and in the former default run (seeds 1 to 3, 21 and 22)
PLANTS = {0.3: (0.35, 0.0075, 0.029, 0.073), 0.5: (0.36, 0.016, 0.026, 0.072), 0.7: (0.85, 0.041, 0.032, 0.091)}
DEFAULT = (0.074, 0.005, 0.017, 0.068)
STUDY_RATE = 3e-4


def simulated() -> str:
    """The table by which the gains were chosen: largest rms of the targets, median and 95 % point of simulated runs.

    With n times the learning rate b and c are taken n^.7 times as large, as was measured at tau .5, or n times, whichever is worse.
    """
    rules: dict[str, Any] = {
        "kp .4, ki .03": lambda rate: Gains(0.4, 0.03, 0.5),
        "kp .5, ki .03": lambda rate: Gains(0.5, 0.03, 0.5),
        "kp .7 at a rate of 1e-4, ki .03": lambda rate: Gains(PIController(kp=0.7, ki=0.03).at_speed(rate / 1e-4).kp, 0.03, 0.5),
    }
    lines = []
    for name, rule in rules.items():
        cells = [_worst([(Plant(DEFAULT[0], 0.0, *DEFAULT[1:]), 0.65)], rule(STUDY_RATE / 6), 200)]
        for n in (1 / 3.2, 1.0, 3.2):
            plants = [
                (Plant(b * n**power, 0.0, c * n**power, q * n**0.5, r), tau) for tau, (b, c, q, r) in PLANTS.items() for power in (0.7, 1.0)
            ]
            cells.append(_worst(plants, rule(n * STUDY_RATE), ROLLOUTS))
        lines.append([name, *cells])
    return table(["gains", "former default run (tau .65)", "study, learning rate / 3.2", "study", "study, learning rate x 3.2"], lines)


def _worst(plants: Sequence[tuple[Plant, float]], gains: Gains, rollouts: int) -> str:
    runs = [simulate(plant, gains, start=1 / tau, alpha=0.05, limits=(-0.2, 1.0), rollouts=rollouts, copies=200) for plant, tau in plants]
    found = [np.quantile(np.sqrt(np.mean(error[:, rollouts // 2 :] ** 2, axis=1)), (0.5, 0.95)) for error in runs]
    median, high = np.max(found, axis=0)
    return f"{median:.3f} / {high:.3f}" if high < 1 else "unstable"


def draw_panel(axes: Any, top: str, shown: Sequence[tuple[str, RunMetrics, str]], *, alpha: bool = False) -> None:
    """Entropy over its target (mean of ten), or alpha, of some runs."""
    for label, run, color in shown:
        values = run.column("aer/alpha") if alpha else moving_mean(run.column("rollout/entropy")) / run.target
        axes.plot(run.index + 1, values, color=color, label=label, linewidth=1.4)
    if not alpha:
        axes.axhspan(0.85, 1.15, color=PALETTE[3], alpha=0.12, linewidth=0)
        axes.axhline(1.0, color=INK, linewidth=0.8)
        axes.set_ylim(0.4, 2.2)
    axes.set_title(top, fontsize=9.5)
    axes.set_xlim(0, max((len(run) for _, run, _ in shown), default=ROLLOUTS))
    axes.set_xlabel("rollout", fontsize=8.5)
    if shown:
        axes.legend(loc="best", fontsize=7.5)


def draw_responses(root: Path) -> bytes:
    """Step responses: from H_0 to each target, the former controller and pi; alpha below."""
    with style():
        figure, axes = grid(6, 3, width=3.2, height=2.3)
        for i, tau in enumerate(TAUS):
            shown = [("proportional", run, PALETTE[1]) for _, run in runs_of(f"proportional_tau_{tau}", root)]
            colours = dict(zip(UNTOUCHED, (PALETTE[0], PALETTE[3], PALETTE[4]), strict=True))
            shown += [(f"pi, seed {seed}", run, colours[seed]) for seed, run in runs_of(f"pi_tau_{tau}", root)]
            draw_panel(axes[i], f"H / H* (mean of ten), tau {tau}", shown)
            draw_panel(axes[3 + i], "alpha", shown, alpha=True)
        return png(figure, dpi=80)


def draw_rates(root: Path) -> bytes:
    """The same gains at three learning rates, tau .5."""
    names = [("lr / 3.2", "pi_lr_low_tau_0.5", 4), ("lr", "pi_tau_0.5", 0), ("lr x 3.2", "pi_lr_high_tau_0.5", 1)]
    shown = [(label, run, PALETTE[j]) for label, name, j in names for _, run in runs_of(name, root)[:1]]
    with style():
        figure, axes = grid(2, 2, width=4.8, height=2.2)
        draw_panel(axes[0], "H / H* (mean of ten), tau 0.5", shown)
        draw_panel(axes[1], "alpha", shown, alpha=True)
        return png(figure, dpi=80)


def draw_default(root: Path) -> bytes:
    """The default run: entropy over its target, and alpha."""
    with style():
        figure, axes = grid(2, 2, width=4.8, height=2.2)
        shown = [("pi", run, PALETTE[0]) for _, run in runs_of("default", root)]
        draw_panel(axes[0], "H / H* (mean of ten)", shown)
        draw_panel(axes[1], "alpha", shown, alpha=True)
        return png(figure, dpi=80)


PICTURES = {"responses": draw_responses, "rates": draw_rates, "default": draw_default}


def main() -> int:
    """Run what is missing, then the table and the pictures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", default="runs/control", metavar="DIR", help="where the runs go")
    parser.add_argument("--out", default="docs", metavar="DIR", help="where control.csv and images/ go")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes, one core each")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="run these groups alone")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    root, out = Path(options.runs), Path(options.out)
    try:
        runs = [run_of(case, seed) for case in cases() if case.group in options.only for seed in case.seeds]
        check_finished(runs, root)
        failed = run_all(runs, root, options.jobs, Processes(), lambda _: 180.0)
        (out / "images").mkdir(parents=True, exist_ok=True)
        write_table(root, out / "control.csv")
        write_page(out / "control.csv", out / "control.md")
        for name, draw in PICTURES.items():
            (out / "images" / f"control_{name}.png").write_bytes(draw(root))
        for line in failed:
            print(f"error: {line}", file=sys.stderr)
        return 2 if failed else 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
