"""Completions per second of training: TRL's generate path and both of our engines, in turn, in one run, phase by phase.

    python benchmarks/peers.py --machine "2-core Intel Xeon, CPU only"

The load is that of `configs/aer.yaml`: the shipped model, 30 Countdown prompts x 8 completions of at most 26 tokens, one optimizer step a
rollout. TRL gets a pinned version in an environment of its own, made at the first call under `build/`, with the same torch and
transformers; ours runs `fit` with all of AER. Each contestant is a process of its own, and they take turns, `--rounds` times, so that a
busy machine slows all of them alike. Start and first steps are left out; the ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONTESTANTS = ("TRL", "TransformersEngine", "VLLMEngine")
BARS = {"TransformersEngine": 2.0, "VLLMEngine": 1.2}
TRL_VERSION = "1.16.0"
PHASES = ("generate", "sync", "verify", "score, advantages, packs", "forward and backward", "optimizer", "rest")


def trl_environment(folder: Path) -> Path:
    """The interpreter of TRL's environment, which is made if it is not there or has other versions."""
    import torch
    import transformers

    wanted = [f"torch=={torch.__version__.split('+')[0]}", f"transformers=={transformers.__version__}", f"trl=={TRL_VERSION}"]
    stamp, interpreter = folder / "versions.txt", folder / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != "\n".join(wanted):
        print(f"making {folder}: {', '.join(wanted)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, wanted[0]], check=True)  # torch first: a later package would otherwise pull another build of it
        subprocess.run([*install, *wanted], check=True)
        stamp.write_text("\n".join(wanted))
    return interpreter


def load_of(options: argparse.Namespace) -> dict[str, Any]:
    """What every contestant is given: the sizes of `configs/aer.yaml`, and TRL's prompts, which are ours in our order."""
    import yaml

    from aer_lightning.data.prompts import CountdownPrompts

    config = yaml.safe_load((ROOT / "configs/aer.yaml").read_text())
    data, model = config["data"]["init_args"], config["model"]["init_args"]
    source = CountdownPrompts(**data["prompts"]["init_args"])
    prompts = [source[index] for index in range(data["prompts_per_rollout"] * options.steps)]
    return {
        "config": str(ROOT / "configs/aer.yaml"),
        "model": str(ROOT / "aer_lightning/assets" / model["pretrained"]),
        "lr": float(model["optimizer"]["init_args"]["lr"]),
        "prompts_per_rollout": data["prompts_per_rollout"],
        "responses": data["responses_per_prompt"],
        "max_new_tokens": data["max_new_tokens"],
        "prompts": [(prompt.text, prompt.answer) for prompt in prompts],
        "steps": options.steps,
        "threads": options.threads,
        "cpu_time": options.cpu_time,
    }


def run(contestant: str, load: dict[str, Any], interpreter: Path | str) -> list[dict[str, float]]:
    """The steps of one process of a contestant."""
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder, "load.json"), Path(folder, "steps.json")
        given.write_text(json.dumps({**load, "contestant": contestant, "run_dir": str(Path(folder, "run"))}))
        threads = str(load["threads"])
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [str(interpreter), str(ROOT / "benchmarks/peers_run.py"), str(given), str(result)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
        if done.returncode or not result.is_file():
            raise SystemExit(f"error: {contestant} failed\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return json.loads(result.read_text())


def summary(rounds: dict[str, list[list[dict[str, float]]]], completions: int, skip: int) -> dict[str, Any]:
    """Medians over the steps of each contestant, and ratios to TRL as medians over rounds.

    Args:
        rounds: contestant -> per round its steps.
        completions: per step.
        skip: steps left out at the beginning of each round.
    """
    per_round = {name: [statistics.median(s["seconds"] for s in steps[skip:]) for steps in many] for name, many in rounds.items()}
    result: dict[str, Any] = {}
    for name, many in rounds.items():
        steps = [step for part in many for step in part[skip:]]
        seconds = sorted(step["seconds"] for step in steps)
        quartiles = {f"p{percent}": round(seconds[percent * (len(seconds) - 1) // 100], 4) for percent in (25, 50, 75)}
        result[name] = {
            "completions_per_second": round(completions / statistics.median(seconds), 1),
            "seconds": quartiles,
            "phases": {phase: round(statistics.median(s.get(phase, 0.0) for s in steps), 4) for phase in PHASES},
        }
        if "TRL" in rounds:
            ratios = [a / b for a, b in zip(per_round["TRL"], per_round[name], strict=True)]
            result[name]["times_trl"] = round(statistics.median(ratios), 3)
            result[name]["times_trl_per_round"] = [round(ratio, 3) for ratio in ratios]
    return result


def report(result: dict[str, Any]) -> str:
    """The section of the README."""
    from kernels_common import table

    names = list(result["contestants"])
    rows = [
        ["completions/s", *(f"{result['contestants'][n]['completions_per_second']:.0f}" for n in names)],
        ["times TRL", *(f"{result['contestants'][n]['times_trl']:.2f}" for n in names)],
        ["bar", *(f"{BARS[n]}" if n in BARS else "" for n in names)],
        *([f"{phase}, ms", *(f"{1000 * result['contestants'][n]['phases'][phase]:.0f}" for n in names)] for phase in PHASES),
    ]
    load, made = result["load"], result["environment"]
    head = (
        f"{made['machine']}, {load['threads']} thread(s), torch {made['versions']['torch']}, TRL {TRL_VERSION}, "
        f"{result['rounds']} rounds of {load['steps']} steps in turn, {made['date']} (`results/{result['file']}`)"
    )
    return f"{head}\n\n{table(['', *names], rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=40, help="rollouts per turn")
    parser.add_argument("--skip", type=int, default=5, help="first rollouts of a turn that are not counted")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="torch threads of each trainer")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="processor time, which a busy machine does not stretch (without vLLM's worker)",
    )
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--trl-environment", type=Path, default=ROOT / "build" / f"trl-{TRL_VERSION}")
    parser.add_argument("--machine", help="write benchmarks/results/peers-MACHINE.json and the README's table under this name")
    options = parser.parse_args()
    if options.cpu_time and options.machine:
        parser.error("--cpu-time is for a look on a busy machine; --machine keeps wall time")
    if not 0 <= options.skip < options.steps:
        parser.error("--skip must be less than --steps")
    sys.path.insert(0, str(ROOT))

    load = load_of(options)
    interpreters: dict[str, Path | str] = dict.fromkeys(CONTESTANTS, sys.executable)
    if "TRL" in options.only:
        interpreters["TRL"] = trl_environment(options.trl_environment)
    rounds: dict[str, list[list[dict[str, float]]]] = {name: [] for name in options.only}
    for turn in range(options.rounds):
        for name in options.only:
            rounds[name].append(run(name, load, interpreters[name]))
            median = statistics.median(step["seconds"] for step in rounds[name][-1][options.skip :])
            print(f"round {turn + 1}: {name} {load['prompts_per_rollout'] * load['responses'] / median:.0f} completions/s", flush=True)
    contestants = summary(rounds, load["prompts_per_rollout"] * load["responses"], options.skip)
    print(json.dumps(contestants, indent=2))
    if options.machine:
        from kernels_common import environment, replace_section, save

        file = f"peers-{'-'.join(options.machine.lower().replace(',', '').split())}.json"
        load.pop("prompts")
        load = {key: Path(value).name if key in ("config", "model") else value for key, value in load.items()}
        result = {"environment": environment(options.machine), "file": file}
        result |= {"load": load, "rounds": options.rounds, "skipped_steps": options.skip, "contestants": contestants}
        save(result, ROOT / "benchmarks/results" / file)
        if options.only == list(CONTESTANTS):
            replace_section(ROOT / "benchmarks/README.md", "peers", report(result))


if __name__ == "__main__":
    main()
