"""``python -m aer_lightning sweep PLAN.yaml``: a grid over any dotted options times seeds, resumable, one process per device.

A plan:

    configs: [configs/aer.yaml, configs/arithmetic.yaml]   # as on the command line, later files win
    set: {trainer.max_epochs: 2}                           # for all runs
    grid:                                                  # every combination; EntropyAnchor.tau is an option of a callback
      EntropyAnchor.tau: [0.4, 0.65]
      model.init_args.optimizer.init_args.lr: [5.0e-5, 1.0e-4]
    seeds: [1, 2]
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aer_lightning.errors import ConfigError
from aer_lightning.overlays import find_configs
from aer_lightning.study.configuration import Config, change, merge, read_yaml
from aer_lightning.study.plan import Run
from aer_lightning.study.runner import Launch, Processes, check_finished, finished, run_all

SECTIONS = {"configs", "set", "grid", "seeds"}


@dataclass(frozen=True)
class Sweep:
    """A plan as read; see the module."""

    base: Config
    grid: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]

    def runs(self) -> list[Run]:
        """All runs, every combination with the first seed before the second seed begins.

        Example:
            >>> [r.name for r in Sweep({"name": "x"}, {"a.tau": [0.4, 0.5]}, [1, 2]).runs()]
            ['tau=0.4 seed1', 'tau=0.5 seed1', 'tau=0.4 seed2', 'tau=0.5 seed2']
        """
        found = []
        for seed in self.seeds:
            for values in itertools.product(*self.grid.values()):
                chosen = dict(zip(self.grid, values, strict=True))
                name = ",".join(f"{short}={_text(value)}" for short, value in zip(_short(list(self.grid)), values, strict=True)) or "run"
                config = change(self.base, {**chosen, "name": name, "seed_everything": seed})
                found.append(Run(name, f"seed{seed}", Path(name, f"seed{seed}"), config, rollouts=0))
        return found


def _short(keys: Sequence[str]) -> list[str]:
    """The last part of each option, and as much before it as tells them apart."""
    for parts in range(1, 10):
        names = [".".join(key.split(".")[-parts:]) for key in keys]
        if len(set(names)) == len(names):
            return names
    return list(keys)


def _text(value: Any) -> str:
    """A value as a part of a folder's name."""
    if isinstance(value, dict) and "class_path" in value:
        value = str(value["class_path"]).rpartition(".")[2]
    return re.sub(r"[^\w.+-]+", "_", str(value))[:40]


def read_sweep(path: Path | str) -> Sweep:
    """Read a plan.

    Raises:
        ConfigError, DataError: names the file and what is wrong with it.
    """
    raw = read_yaml(path)
    if unknown := set(raw) - SECTIONS:
        raise ConfigError(f"{path}: {', '.join(sorted(unknown))}: a sweep has {', '.join(sorted(SECTIONS))}")
    configs, grid, seeds = raw.get("configs"), raw.get("grid") or {}, raw.get("seeds") or [1]
    if not isinstance(configs, list) or not configs:
        raise ConfigError(f"{path}: configs: give a list of configuration files, the first one whole")
    for key, values in grid.items():
        if not isinstance(values, list) or not values or len({_text(v) for v in values}) < len(values):
            raise ConfigError(f"{path}: grid.{key}: give a list of different values")
    if not all(isinstance(seed, int) for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"{path}: seeds: give different whole numbers, got {seeds}")
    base: Config = {}
    for name in configs:
        base = merge(base, read_yaml(find_configs(["-c", str(name)])[1]))
    return Sweep(change(base, raw.get("set") or {}), grid, seeds)


def devices() -> list[str]:
    """Accelerators that this process may use by their numbers; none on a machine without."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


class OnDevices:
    """Gives every process a device of its own while it runs; without any they share the cores, one each."""

    def __init__(self, names: Sequence[str], processes: Processes) -> None:
        self._free, self._processes, self._lock = list(names), processes, threading.Lock()

    def __call__(self, arguments: Sequence[str], log: Path) -> int:
        """Run one command line on a free device."""
        if not self._free:
            return self._processes(arguments, log)
        with self._lock:
            name = self._free.pop(0)
        try:
            return self._processes(arguments, log, {"CUDA_VISIBLE_DEVICES": name})
        finally:
            with self._lock:
                self._free.append(name)

    def stop(self) -> None:
        """End what runs."""
        self._processes.stop()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m aer_lightning sweep",
        description="Every combination of a grid of options, with every seed.",
        epilog="Run it again to go on: finished runs are kept, interrupted ones go on from their last checkpoint. "
        "Finished runs keep their exported model, and no checkpoints.",
    )
    parser.add_argument("plan", metavar="PLAN.yaml", help="configs, set, grid and seeds; see examples/sweep.yaml")
    parser.add_argument("--runs", metavar="DIR", help="where the runs go (default: runs/sweep/NAME OF THE PLAN)")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes at a time (default: one per accelerator, else one per core)")
    parser.add_argument("--dry-run", action="store_true", help="print the runs, and run nothing")
    return parser.parse_args(argv)


def main(argv: list[str], launch: Launch | None = None) -> int:
    """Run the command; returns the exit status.

    Raises:
        ConfigError: the plan is wrong, or runs failed.
    """
    from aer_lightning.study.command import cores

    try:
        options = parse(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    sweep = read_sweep(options.plan)
    root = Path(options.runs or Path("runs/sweep", Path(options.plan).stem))
    runs = sweep.runs()
    if options.dry_run:
        print("\n".join(f"{run.name}{'  finished' if finished(root / run.folder) else ''}" for run in runs))
        return 0
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs: {options.jobs} processes run nothing; give at least 1")
    check_finished(runs, root)
    names = devices() if launch is None else []
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    jobs = min(options.jobs or len(names) or cores(), len(names) or len(runs))
    failures = run_all(runs, root, jobs, launch or OnDevices(names, Processes()), lambda run: 0.0)
    if failures:
        raise ConfigError(f"{len(failures)} runs failed, and go on where they stopped when the sweep is run again: {'; '.join(failures)}")
    print(f"compare them: python -m aer_lightning compare {root}/*/seed*/")
    return 0
