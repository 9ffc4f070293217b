"""``python -m aer_lightning tune-controller RUN_DIR``: gains of ``pi`` from the log of one run."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aer_lightning.errors import ConfigError, DataError
from aer_lightning.reporting.plant import Gains, Plant, gain_margin, identify, predicted_rms, propose
from aer_lightning.reporting.run_metrics import METRICS_FILE, RunMetrics, read_metrics
from aer_lightning.reporting.runs import CONFIG_FILE

FEWEST = 40
EXCITE = "GlobalCoefficient with controller: sign and eta: 0.02, which keeps alpha moving"
EPILOG = (
    "Any run of fit will do in which the coefficient moved; a run under pi or sign does. The gains hold for its learning rate times "
    "optimizer steps per rollout, which is printed as rate: with it kp follows another learning rate or number of steps."
)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m aer_lightning tune-controller",
        description="Identify from a run's log how the entropy answers to alpha, and propose kp and ki.",
        epilog=EPILOG,
    )
    parser.add_argument("run", metavar="RUN_DIR", help="folder of a run")
    parser.add_argument("--time-constant", type=float, default=8.0, metavar="T", help="rollouts in which an error falls to a third (8)")
    parser.add_argument("--smoothing", type=float, default=0.5, metavar="S", help="memory of the average of H_k, in [0, 1) (0.5)")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N rollouts (0)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the command; returns the exit status.

    Raises:
        ConfigError, DataError: an option or the run will not do.
    """
    try:
        options = parse(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    if not 1 <= options.time_constant < math.inf:
        raise ConfigError(f"--time-constant: must be at least 1 rollout, got {options.time_constant}")
    if not 0 <= options.smoothing < 1:
        raise ConfigError(f"--smoothing: must be at least 0 and below 1, got {options.smoothing}")
    if options.skip < 0:
        raise ConfigError(f"--skip: must be 0 or more rollouts, got {options.skip}")
    folder = Path(options.run)
    plant, weight = identify_run(folder, options.skip)
    gains = propose(plant.gain * weight, options.time_constant, options.smoothing)
    print("\n".join(report(folder, plant, weight, gains, options.time_constant)))
    return 0


def identify_run(folder: Path, skip: int = 0) -> tuple[Plant, float]:
    """The plant of a run, and the mean difficulty weight by which alpha reached its loss.

    Args:
        folder: of the run.
        skip: rollouts to leave out at the beginning.

    Raises:
        DataError: the log lacks what is needed, or the coefficient moved too little to tell its effect.
    """
    run = read_metrics(folder)
    entropy, coefficient, alpha = (run.column(name)[skip:] for name in ("rollout/entropy", "aer/mean_coefficient", "aer/alpha"))
    if np.isnan(coefficient).all():
        raise DataError(f"{folder / METRICS_FILE}: no aer/mean_coefficient; give a run of fit with a coefficient among its callbacks")
    known = ~(np.isnan(entropy) | np.isnan(coefficient))
    if known.sum() < FEWEST:
        raise DataError(f"{folder}: {known.sum()} rollouts, of which too little can be told; give a run of {FEWEST} or more")
    if not (entropy[known] > 0).all():
        raise DataError(f"{folder}: the entropy is 0 in {int((entropy[known] <= 0).sum())} rollouts; nothing answers to alpha there")
    plant = identify(entropy[known], coefficient[known])
    if not plant.gain > 2 * plant.gain_error:
        raise DataError(
            f"{folder}: the entropy's answer to alpha, {plant.gain:.2g} ± {plant.gain_error:.2g}, cannot be told from none (the mean "
            f"coefficient moved by {np.std(coefficient[known]):.2g}); give a longer run, or one of {EXCITE}"
        )
    return plant, mean_weight(run, coefficient, alpha)


def mean_weight(run: RunMetrics, coefficient: Any, alpha: Any) -> float:
    """Mean coefficient over alpha in the last half, 1 with normalised weights."""
    late = slice(len(coefficient) // 2, None)
    size = float(np.nansum(np.abs(alpha[late])))
    return float(np.nansum(np.abs(coefficient[late]))) / size if size > 0 else 1.0


def report(folder: Path, plant: Plant, weight: float, gains: Gains, time_constant: float) -> list[str]:
    """What is printed."""
    model = Plant(plant.gain * weight, plant.gain_error * weight, plant.drift, plant.wander, plant.noise)
    margin = gain_margin(model.gain, gains)
    predicted = [predicted_rms(model, gains, factor=factor) for factor in (1.0, 10**0.5, 10**-0.5)]
    moved = _rate(folder)
    where = f" (learning rate {moved[0]:g} x {moved[1]} optimizer steps per rollout)" if moved else ""
    lines = [
        f"run        {folder}{where}",
        f"entropy    log H changes by {plant.gain:.3f} ± {plant.gain_error:.3f} per rollout and unit of mean coefficient, "
        f"and by {-plant.drift:+.4f} per rollout without one",
        f"noise      {100 * plant.noise:.1f} % in the H of one rollout; H itself wanders by {100 * plant.wander:.1f} % a rollout",
    ]
    if abs(weight - 1) > 0.02:
        lines.append(f"weights    {weight:.2f} of alpha reached the loss (weights without normalize); the gains make up for it")
    lines += [
        f"loop       time constant {time_constant:g} rollouts, stable up to {margin:.1f} times this answer",
        f"predicted  rms of (mean of ten H) / H* - 1: {predicted[0]:.3f}; {predicted[1]:.3f} at 3.2 times the learning rate, "
        f"{predicted[2]:.3f} at a 3.2th",
        "",
        "# init_args of GlobalCoefficient",
        "controller: pi",
        f"kp: {gains.kp:.3g}",
        *([f"rate: {moved[0] * moved[1]:.2e}"] if moved else []),
        f"ki: {gains.ki:.3g}",
        f"smoothing: {gains.smoothing:g}",
    ]
    if margin < 10**0.5:
        lines.append("# little margin: a longer --time-constant or less --smoothing gives more")
    return lines


def _rate(folder: Path) -> tuple[float, int] | None:
    """Learning rate and optimizer steps per rollout, which the gains hold for, as far as the run's configuration says."""
    import yaml

    from aer_lightning.study.configuration import look_up

    try:
        config = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    rate = look_up(config, "model.init_args.optimizer.init_args.lr") if isinstance(config, dict) else None
    steps = look_up(config, "data.init_args.optimizer_steps_per_rollout") if isinstance(config, dict) else None
    return (rate, steps) if isinstance(rate, float) and isinstance(steps, int) else None
