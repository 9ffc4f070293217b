"""Time, memory and accuracy of the token statistics on a GPU: ours, plain torch, and the public kernels that are installed.

    make gpu-bench                                             (all shapes, bf16)
    make gpu-bench ARGS="--shape 8192x4096x151936 --only ours" (a piece; results are added to the file of the machine)

A piece stops by itself after --minutes (8), and says what it left out. For each shape: forward, backward and both in ms (median), the
roofline of the plan, the share of the limit that the arithmetic sets at the matrix rate measured in the same run (forward 2NDV; backward
6NDV where logits are computed again, 4NDV where they are kept), peak memory beyond inputs, and the error of results and gradients against
fp64. Then the logits kernels, whose limit is the copy bandwidth. Writes results/<machine>.json and the table in README.md. A contender
that runs out of memory, or fails, says so in its row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kernels_common import FOLDER, RESULTS, environment, plain, replace_section, save, table
from kernels_peers import Contender, peers
from torch import Tensor

from aer_lightning.kernels import linear_token_stats, logits_token_stats, plan

SHAPES = [*((rows, 4096, 151936) for rows in (8192, 16384, 32768, 65536)), (8192, 1536, 151936), (2048, 4096, 128256), (1024, 4096, 32000)]
STRICT_MB = 1024
ACCURACY_ROWS = 256


def contenders(shape: tuple[int, int, int], device: str) -> list[Contender]:
    rows, width, vocabulary = shape
    backend = "triton" if device == "cuda" else "torch"

    def ours(form: str, memory: Any, cache: bool) -> Contender:
        made = plan(rows, width, vocabulary, torch.bfloat16, memory, device, form=form, cache=cache)  # type: ignore[arg-type]

        def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> Any:
            fitting = made if hidden.shape[0] == rows else None
            return linear_token_stats(hidden, weight, targets, None, 1.0, backend, memory, plan=fitting)  # type: ignore[arg-type]

        kind = "cached" if made.cached else "strict"
        return Contender(
            f"ours, {made.form}, {kind}, {memory} MiB", run, 4 if made.cached else 8 if made.two_passes else 6, sum(made.seconds)
        )

    found: list[Contender] = []
    whole = int(rows * vocabulary * 2 / 2**20 * 1.05) + STRICT_MB
    for form in ("rows", "product") if device == "cuda" else ("torch",):
        found.append(ours(form, STRICT_MB, False))
    found.append(ours("rows" if device == "cuda" else "torch", whole, True))
    found.append(Contender("ours, the trainer's default", lambda h, w, t: linear_token_stats(h, w, t, None, 1.0, backend)))  # type: ignore[arg-type, return-value]
    if device == "cuda":
        torch_backend = Contender("ours, torch backend", lambda h, w, t: linear_token_stats(h, w, t, None, 1.0, "torch", STRICT_MB), 6)  # type: ignore[arg-type, return-value]
        found.append(torch_backend)
    found.append(Contender("plain torch, fp32 log_softmax", plain))
    found.append(Contender("torch.compile of it", torch.compile(plain)))
    return found + peers()


class Clock:
    """Milliseconds between two points: device events on a GPU."""

    def __init__(self, device: str) -> None:
        self.device = device

    def measure(self, function: Callable[[], Any]) -> tuple[float, Any]:
        """Run once; the time and what it returned."""
        if self.device != "cuda":
            start = time.perf_counter()
            result = function()
            return (time.perf_counter() - start) * 1e3, result
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        result = function()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end), result

    def median(self, function: Callable[[], Any], repeats: int) -> float:
        """Warm up, then take the median."""
        for _ in range(3):
            function()
        return statistics.median(self.measure(function)[0] for _ in range(repeats))


def limits(clock: Clock, quick: bool) -> dict[str, float]:
    """The machine's matrix rate in TFLOP/s (bf16, random data) and copy bandwidth in TB/s (bytes read and written)."""
    size = 256 if quick else 8192
    left, right = (torch.randn(size, size, device=clock.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = clock.median(lambda: left @ right, 30) / 1e3
    source = torch.empty((1 << 20) if quick else (1 << 31), dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    copy = clock.median(lambda: target.copy_(source), 30) / 1e3
    return {"matmul_tflops": 2 * size**3 / seconds / 1e12, "copy_tbps": 2 * source.numel() / copy / 1e12}


def inputs(shape: tuple[int, int, int], device: str, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    rows, width, vocabulary = shape
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, device=device, dtype=dtype).requires_grad_()
    weight = (torch.randn(vocabulary, width, device=device, dtype=dtype) * (2 / width**0.5)).requires_grad_()
    return hidden, weight, torch.randint(0, vocabulary, (rows,), device=device)


def loss_of(results: tuple[Tensor, Tensor | None]) -> Tensor:
    logprob, entropy = results
    weights = torch.linspace(0.5, 1.5, logprob.numel(), device=logprob.device) if logprob.ndim else 1.0
    loss = (logprob.float() * weights).sum()
    return loss if entropy is None else loss + 0.1 * (entropy * weights).sum()


def timing(contender: Contender, shape: tuple[int, int, int], clock: Clock, rates: dict[str, float], repeats: int) -> dict[str, Any]:
    hidden, weight, targets = inputs(shape, clock.device)

    def both() -> tuple[float, float]:
        forward, results = clock.measure(lambda: contender.function(hidden, weight, targets))
        loss = loss_of(results)
        return forward, clock.measure(lambda: torch.autograd.grad(loss, (hidden, weight)))[0]

    for _ in range(3):
        both()
    peak = None
    if clock.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        both()
        peak = torch.cuda.max_memory_allocated() - before
    samples = [both() for _ in range(repeats)]
    forward, backward = (statistics.median(column) for column in zip(*samples, strict=True))
    work = 2 * shape[0] * shape[1] * shape[2]
    limit = (1 + contender.backward_work / 2) * work / rates["matmul_tflops"] / 1e9
    total = statistics.median(a + b for a, b in samples)
    return {
        "forward_ms": forward,
        "backward_ms": backward,
        "both_ms": total,
        "limit_ms": limit,
        "roofline_ms": None if contender.roofline is None else contender.roofline * 1e3,
        "share_of_limit": limit / total,
        "peak_bytes": peak,
    }


def accuracy(contender: Contender, shape: tuple[int, int, int], device: str) -> dict[str, float | None]:
    """Largest absolute error of the results and relative error of the gradients (Frobenius) against fp64, for some rows."""
    hidden, weight, targets = inputs((min(shape[0], ACCURACY_ROWS), *shape[1:]), device)
    exact_leaves = (hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_())
    results = contender.function(hidden, weight, targets)
    exact = linear_token_stats(*exact_leaves, targets, backend="torch", memory_mb=4096)
    logprob = exact[0] if results[0].ndim else exact[0].sum()
    exact_gradients = torch.autograd.grad(loss_of((logprob, None if results[1] is None else exact[1])), exact_leaves)
    gradients = torch.autograd.grad(loss_of(results), (hidden, weight))
    relative = [float((ours.double() - wanted).norm() / wanted.norm()) for ours, wanted in zip(gradients, exact_gradients, strict=True)]
    return {
        "logprob": float((results[0].double() - logprob).abs().max()),
        "entropy": None if results[1] is None else float((results[1].double() - exact[1]).abs().max()),
        "grad_hidden": relative[0],
        "grad_weight": relative[1],
    }


def logits_kernels(shape: tuple[int, int, int], clock: Clock, rates: dict[str, float], repeats: int) -> list[dict[str, Any]]:
    """From logits in bf16: one read forward; one read and one write backward."""
    rows, _, vocabulary = shape
    logits = torch.randn(rows, vocabulary, device=clock.device, dtype=torch.bfloat16).requires_grad_()
    targets = torch.randint(0, vocabulary, (rows,), device=clock.device)
    size = logits.numel() * 2
    found = []
    backend = "triton" if clock.device == "cuda" else "torch"
    for in_place in (False, True):

        def both(in_place: bool = in_place) -> tuple[float, float]:
            source = logits if not in_place else logits * 1  # in place the logits are gone afterwards
            forward, results = clock.measure(lambda: logits_token_stats(source, targets, 1.0, backend, inplace_backward=in_place))
            loss = loss_of(results)
            return forward, clock.measure(lambda: torch.autograd.grad(loss, source))[0]

        for _ in range(3):
            both()
        samples = [both() for _ in range(repeats)]
        forward, backward = (statistics.median(column) for column in zip(*samples, strict=True))
        limit = size / rates["copy_tbps"] / 1e9
        found.append({
            "in_place": in_place, "forward_ms": forward, "backward_ms": backward, "forward_limit_ms": limit, "backward_limit_ms": 2 * limit,
            "forward_share": limit / forward, "backward_share": 2 * limit / backward,
        })  # fmt: skip
    return found


def run(
    shapes: list[tuple[int, int, int]], device: str, only: str, repeats: int, quick: bool, minutes: float, before: list[dict[str, Any]]
) -> dict[str, Any]:
    """Measure; entries of `before` that are not measured again stay."""
    clock, start = Clock(device), time.monotonic()
    rates = limits(clock, quick)
    print(f"matrix products {rates['matmul_tflops']:.1f} TFLOP/s, copy {rates['copy_tbps']:.3f} TB/s", flush=True)
    entries: list[dict[str, Any]] = []
    for shape in shapes:
        for contender in contenders(shape, device):
            if only not in contender.name:
                continue
            if time.monotonic() - start > minutes * 60:
                print(f"left out, {minutes:g} minutes are over: {shape} {contender.name}", flush=True)
                continue
            entry: dict[str, Any] = {"shape": shape, "contender": contender.name}
            try:
                entry |= timing(contender, shape, clock, rates, repeats)
                entry["error"] = accuracy(contender, shape, device)
            except torch.OutOfMemoryError:
                entry["failed"] = "out of memory"
            except Exception as error:  # a peer may fail in ways of its own; the others are still measured, and the row says it
                entry["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
            if device == "cuda":
                torch.cuda.empty_cache()
            entries.append(entry)
            print(*row_of(entry), sep="  ", flush=True)
    measured = {(*entry["shape"], entry["contender"]) for entry in entries}
    entries = [entry for entry in before if (*entry["shape"], entry["contender"]) not in measured] + entries
    result: dict[str, Any] = {"rates": rates, "repeats": repeats, "dtype": "bfloat16", "entries": entries}
    if not only or only in "logits":
        result["logits"] = {"shape": shapes[0], "entries": logits_kernels(shapes[0], clock, rates, repeats)}
    return result


HEADER = ["N x D x V", "contender", "forward", "backward", "both", "of limit", "peak", "logprob, entropy error", "dX, dW error"]


def row_of(entry: dict[str, Any]) -> list[str]:
    first = [" x ".join(map(str, entry["shape"])), entry["contender"]]
    if "failed" in entry:
        return [*first, entry["failed"], *["-"] * (len(HEADER) - 3)]
    error = entry["error"]
    peak = "-" if entry["peak_bytes"] is None else f"{entry['peak_bytes'] / 2**30:.2f} GiB"
    entropy = "-" if error["entropy"] is None else f"{error['entropy']:.0e}"
    times = [f"{entry[key]:.2f} ms" for key in ("forward_ms", "backward_ms", "both_ms")]
    return [*first, *times, f"{entry['share_of_limit']:.0%}", peak, f"{error['logprob']:.0e}, {entropy}",
            f"{error['grad_hidden']:.0e}, {error['grad_weight']:.0e}"]  # fmt: skip


def markdown(result: dict[str, Any], file: str) -> str:
    rates, versions = result["rates"], ", ".join(f"{key} {value}" for key, value in result["versions"].items())
    text = (
        f"{result['machine']}, {versions}, {result['date']}; matrix products {rates['matmul_tflops']:.0f} TFLOP/s, copy "
        f"{rates['copy_tbps']:.2f} TB/s in the same run (`results/{file}`). bf16; errors against fp64 on {ACCURACY_ROWS} rows.\n\n"
    )
    text += table(HEADER, [row_of(entry) for entry in result["entries"]])
    if "logits" in result:
        rows = [
            ["in place" if entry["in_place"] else "new tensor", f"{entry['forward_ms']:.2f} ms ({entry['forward_share']:.0%})",
             f"{entry['backward_ms']:.2f} ms ({entry['backward_share']:.0%})"]
            for entry in result["logits"]["entries"]
        ]  # fmt: skip
        rows_, _, columns = result["logits"]["shape"]
        text += f"\n\nFrom bf16 logits {rows_} x {columns} (share of the copy bandwidth):\n\n"
        text += table(["gradient", "forward", "backward"], rows)
    return text


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--machine", help="name of the machine in the result and of its file (default: the GPU's name)")
    parser.add_argument("--shape", action="append", help="NxDxV; may be given several times (default: five shapes of language models)")
    parser.add_argument("--only", default="", help="contenders whose name contains this")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=8, help="stop measuring after these")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the script, nothing more")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where README.md and results/ are")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: needs a CUDA device; benchmarks/kernels_cpu.py measures a CPU")
        return 2
    shapes = [tuple(map(int, shape.split("x"))) for shape in options.shape] if options.shape else SHAPES
    machine = options.machine or (torch.cuda.get_device_name() if options.device == "cuda" else "cpu")
    file = "kernels-" + "-".join("".join(c if c.isalnum() else " " for c in machine.lower()).split()) + ".json"
    path = options.folder / RESULTS.name / file
    before = json.loads(path.read_text())["entries"] if path.exists() else []
    result = environment(machine) | run(  # type: ignore[arg-type]
        shapes, options.device, options.only, options.repeats, options.device == "cpu", options.minutes, before
    )
    save(result, path)
    replace_section(options.folder / "README.md", "kernels-gpu", markdown(result, file))
    return 0


if __name__ == "__main__":
    sys.exit(main())
