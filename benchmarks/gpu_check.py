"""Every path that needs an NVIDIA GPU, in parts of at most ten minutes: ``make gpu-check [PART=n]``.

Each part prints pass or fail for each path and adds it to benchmarks/results/gpu_check.json, with the device and the versions. Without a
GPU it says so and lists what it would run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gpu_check.json"
LIMIT_S = 570
SMALL = ["--data.init_args.rollouts_per_epoch=4", "--trainer.max_epochs=2", "--trainer.precision=bf16-mixed", "--curves.enabled=false"]


@dataclass(frozen=True)
class Check:
    """One thing that has to work.

    Attributes:
        part: in which command it runs.
        name: of the path.
        what: what passing shows.
        run: returns figures to keep; raises where it does not pass.
    """

    part: int
    name: str
    what: str
    run: Callable[[], dict[str, Any]]


def command(*arguments: str, **environment: str) -> str:
    """Run a command of this repository and return what it printed.

    Raises:
        RuntimeError: it failed or took too long; the last lines say why.
    """
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=os.environ | environment
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[:4])} ended with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    return done.stdout + done.stderr


def kernels() -> dict[str, Any]:
    """The kernel tests that need a device."""
    return {"tail": command("-m", "pytest", "tests/kernels", "-m", "gpu", "-q", "--timeout=540").strip().splitlines()[-1]}


def fit(engine: str, *options: str) -> dict[str, Any]:
    """A short run of the shipped model in bf16; its last rollout's figures."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        out = ["-m", "aer_lightning", "fit", "-c", "configs/aer.yaml", f"--data.init_args.engine={engine}", f"--run_dir={run}"]
        command(*out, *SMALL, *options)
        return last_rollout(run)


def last_rollout(run: Path) -> dict[str, Any]:
    """The figures of the last rollout in a run's metrics.csv."""
    import csv

    with open(run / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("rollout/index")]
    assert len(rows) == 8, f"{len(rows)} of 8 rollouts were logged"
    names = ("rollout/entropy", "rollout/mismatch_logprob", "rollout/reward", "train/loss", "train/grad_norm")
    return {name: float(rows[-1][name]) for name in names}


def stale_weights() -> dict[str, Any]:
    """A vLLM engine that does not take the second sync is found, in bf16 at a learning rate of 1e-6."""
    code = """
import lightning.pytorch as pl, torch
from aer_lightning.data.datamodule import RolloutDataModule
from aer_lightning.data.engines import VLLMEngine
from aer_lightning.errors import StaleWeightsError
from aer_lightning.modules.policy import PolicyModule

class Deaf(VLLMEngine):
    def sync_weights(self, named_weights, version):
        if version == 0:
            return super().sync_weights(named_weights, version)
        list(named_weights)
        self.weight_version = version

module = PolicyModule(optimizer=lambda params: torch.optim.AdamW(params, lr=1e-6))
data = RolloutDataModule(engine=Deaf(), rollouts_per_epoch=3, sleep_engine=False, seed=1)
trainer = pl.Trainer(max_epochs=1, precision="bf16-mixed", logger=False, enable_checkpointing=False, use_distributed_sampler=False)
try:
    trainer.fit(module, data)
except StaleWeightsError as error:
    print("FOUND", error)
else:
    raise SystemExit("stale weights were not found")
"""
    return {"said": command("-c", code).split("FOUND", 1)[1].strip()[:200]}


def offload_changes_nothing() -> dict[str, Any]:
    """The same run with and without offloading, bit for bit, and what memory it held."""
    rows = {offload: fit("TransformersEngine", f"--model.init_args.offload={offload}") for offload in ("none", "optimizer", "all")}
    assert rows["none"] == rows["optimizer"] == rows["all"], rows
    return rows["none"]


def resume() -> dict[str, Any]:
    """A run that goes on from its first epoch's checkpoint ends as the uninterrupted one."""
    with tempfile.TemporaryDirectory() as folder:
        start = ["-m", "aer_lightning", "fit", "-c", "configs/aer.yaml", "--data.init_args.engine=TransformersEngine", *SMALL]
        whole, half = Path(folder) / "whole", Path(folder) / "half"
        command(*start, f"--run_dir={whole}")
        command(*start, f"--run_dir={half}", "--trainer.max_epochs=1")
        command(*start, f"--run_dir={half}", "--resume=auto")
        a, b = last_rollout(whole), last_rollout(half)
        assert a == b, f"{a} is not {b}"
        return a


def memory_of_the_step() -> dict[str, Any]:
    """Peaks of three small models against what the plan says, within 10 %: plan_check ends with 1 where one is further off."""
    return {"said": command("benchmarks/plan_check.py", "--cuda", "--processes", "1").strip().splitlines()}


def sharded() -> dict[str, Any]:
    """FSDP2 on as many GPUs as there are; one will do."""
    return fit("TransformersEngine", "--trainer.strategy=fsdp", "--trainer.devices=auto")


def kernel_benchmark() -> dict[str, Any]:
    """The kernels at one size beside plain torch."""
    return {"tail": command("benchmarks/kernels_gpu.py", "--shape", "4096", "2048", "151936", "--only", "ours,torch").strip()[-1500:]}


PATHS = [
    Check(1, "kernels", "kernel tests on the device", kernels),
    Check(2, "fit, transformers engine, bf16", "packed flash attention, Triton kernels, logging", lambda: fit("TransformersEngine")),
    Check(2, "fit, FSDP2, bf16", "sharded weights, gradients and sync", sharded),
    Check(3, "fit, vLLM engine, bf16", "CUDA IPC sync, sleep and wake, checksums", lambda: fit("VLLMEngine")),
    Check(3, "stale weights, vLLM, bf16", "one step of 1e-6 that is not synced is found", stale_weights),
    Check(4, "offload", "none, optimizer and all give the same bits", offload_changes_nothing),
    Check(4, "resume", "a resumed run ends as the uninterrupted one", resume),
    Check(5, "memory", "peaks of three fits within 10 % of the plan", memory_of_the_step),
    Check(6, "kernel benchmark", "time and memory beside torch", kernel_benchmark),
]


def device() -> str | None:
    """The GPU's name, None without one."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def main(argv: list[str] | None = None) -> int:
    """Run one part or all; 0 if everything passed, or there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", type=int, choices=sorted({p.part for p in PATHS}), default=None)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    chosen = [p for p in PATHS if args.part in (None, p.part)]
    name = device()
    if name is None:
        print("no NVIDIA GPU here; on a machine with one this would run:")
        for p in chosen:
            print(f"  PART={p.part}  {p.name}: {p.what}")
        return 0
    import torch

    results = json.loads(args.results.read_text()) if args.results.exists() else {"paths": {}}
    results |= {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda}
    passed = True
    for p in chosen:
        started = time.perf_counter()
        try:
            outcome: dict[str, Any] = {"passed": True, "figures": p.run()}
        except (RuntimeError, AssertionError, subprocess.TimeoutExpired, ValueError, KeyError, IndexError, OSError) as error:
            outcome = {"passed": False, "why": str(error)[-2000:]}
            passed = False
        outcome["seconds"] = round(time.perf_counter() - started, 1)
        results["paths"][p.name] = outcome
        print(f"{'pass' if outcome['passed'] else 'FAIL'}  {p.name}: {p.what} ({outcome['seconds']} s)", flush=True)
        args.results.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
