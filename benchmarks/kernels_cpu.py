"""Time and memory of the torch backend on a CPU against plain torch, in turn in one run.

    python benchmarks/kernels_cpu.py --machine "2-core Intel Xeon, no GPU"

Each contender computes log-probability and entropy and differentiates both. They take turns, so that a machine whose speed drifts (shared
cores) treats them alike; the median of each is reported, and the median of the ratios of a turn. Peak memory is that of a process of its
own: the most it held above what it held before and the two gradients. Writes results/<machine>.json and the table in README.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from kernels_common import FOLDER, RESULTS, Function, environment, plain, replace_section, save, table

from aer_lightning.kernels import linear_token_stats

SHAPES = [
    (1024, 576, 49152),
    (1024, 1024, 151936),
    (2048, 512, 32768),
    (512, 64, 48),
    (2048, 128, 48),
    (4096, 128, 64),
]  # N, D, V; the last three: tiny models
MEMORY = 64  # MiB: what `auto` is on a CPU


def contenders() -> dict[str, Function]:
    def ours(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> Any:
        return linear_token_stats(hidden, weight, targets, backend="torch", memory_mb=MEMORY)

    return {"plain torch": plain, f"ours, {MEMORY} MiB": ours}


def inputs(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, width, vocabulary = shape
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(vocabulary, width).mul_(width**-0.5).requires_grad_()
    return hidden, weight, torch.randint(0, vocabulary, (rows,))


def step(function: Function, data: Any) -> None:
    hidden, weight, targets = data
    logprob, entropy = function(hidden, weight, targets)
    torch.autograd.grad((logprob + 0.1 * entropy).sum(), (hidden, weight))


def times(shape: tuple[int, int, int], turns: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    data, functions = inputs(shape), contenders()
    inner = max(1, min(200, int(2e8 / (6 * shape[0] * shape[1] * shape[2]))))
    found: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(turns + 1):
        for name, function in functions.items():
            start = clock()
            for _ in range(inner):
                step(function, data)
            if turn:  # the first is a warm-up
                found[name].append((clock() - start) / inner)
    return found


def peak_bytes(shape: tuple[int, int, int], name: str) -> int:
    """Most memory above what was held before, of one step in a process of its own (Linux)."""
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import kernels_cpu; kernels_cpu.print_peak({shape!r}, {name!r})"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def print_peak(shape: tuple[int, int, int], name: str) -> None:
    function = contenders()[name]
    step(function, inputs((512, 8, 512)))  # what the libraries allocate once
    data = inputs(shape)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark starts again
    before = _status("VmRSS")
    step(function, data)
    gradients = sum(value.nbytes for value in data[:2])
    print(_status("VmHWM") - before - gradients)


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--machine", default="cpu", help="name of the machine in the result and of its file")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()], help="each shape with each of these")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--shape", action="append", help="NxDxV; may be given several times")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: time of the process, where others use the cores too")
    arguments = parser.parse_args()
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    entries, rows = [], []
    peaks: dict[tuple[Any, ...], int] = {}
    shapes = [tuple(map(int, shape.split("x"))) for shape in arguments.shape] if arguments.shape else SHAPES
    for shape, threads in ((shape, threads) for shape in shapes for threads in dict.fromkeys(arguments.threads)):
        torch.set_num_threads(threads)
        found = times(shape, arguments.turns, clock)
        for name, seconds in found.items():
            ratio = statistics.median(ours / theirs for ours, theirs in zip(seconds, found["plain torch"], strict=True))
            entry: dict[str, Any] = {"shape": shape, "threads": threads, "contender": name, "seconds": statistics.median(seconds)}
            entry["time_ratio"], memory = ratio, "-"
            if shape[2] > 64:
                if (shape, name) not in peaks:
                    peaks[shape, name] = peak_bytes(shape, name)
                entry["peak_bytes"] = peaks[shape, name]
                entry["memory_ratio"] = entry["peak_bytes"] / peaks[shape, "plain torch"]
                memory = f"{entry['peak_bytes'] / 2**20:.0f} MiB (1/{1 / entry['memory_ratio']:.1f})"
            entries.append(entry)
            rows.append([" x ".join(map(str, shape)), str(threads), name, f"{entry['seconds'] * 1e3:.2f} ms", f"{ratio:.2f}", memory])
            print(*rows[-1], sep="  ", flush=True)
    result = environment(arguments.machine) | {
        "clock": arguments.clock,
        "load": os.getloadavg(),
        "turns": arguments.turns,
        "dtype": "float32",
        "entries": entries,
    }
    file = "kernels-" + "-".join("".join(c if c.isalnum() else " " for c in arguments.machine.lower()).split()) + ".json"
    save(result, RESULTS / file)
    versions = ", ".join(f"{key} {value}" for key, value in result["versions"].items())
    load = f"load {result['load'][0]:.1f} at the end"
    caption = f"{arguments.machine}, {arguments.clock} clock, fp32, {versions}, {result['date']}, {load} (`results/{file}`)\n\n"
    header = ["N x D x V", "threads", "contender", "forward + backward", "time / plain torch", "peak memory (part of plain torch's)"]
    replace_section(FOLDER / "README.md", "kernels-cpu", caption + table(header, rows))


if __name__ == "__main__":
    main()
