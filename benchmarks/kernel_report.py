"""Print the roofline of the plans, and what every Triton kernel compiles to, for several generations of GPUs, without having one.

    python benchmarks/kernel_report.py [--roofline] [--target 90] [--only gradient]

Registers a thread, bytes of stack and of shared memory, spills, instructions for an element of the row kernels, and the instructions that
matter: HMMA (mma.sync), HGMMA (wgmma) and UTCHMMA (tcgen05) are matrix products, UTMALDG and LDGSTS asynchronous copies, MUFU exponentials.
Exits with 1 if a kernel spills.
"""

from __future__ import annotations

import argparse
import os
import sys

import torch

from aer_lightning.kernels import plan
from aer_lightning.kernels.planning import DEVICES


def roofline() -> None:
    """At 4096 x 151,936 in bf16, in ms: what the arithmetic takes, and what the plans take with their traffic."""
    print("device  tokens  plan                                  MiB   limit roofline ratio  with sums  GB moved")
    for name in ("H100", "H200", "B200"):
        for rows in (8192, 16384, 32768, 65536):
            for title, memory, cache in (("auto", "auto", True), ("auto, strict", "auto", False), ("1 GiB, strict", 1024, False)):
                made = plan(rows, 4096, 151936, torch.bfloat16, memory, name, cache=cache)  # type: ignore[arg-type]
                limit, seconds = made.flops[0] * (3 if made.cached else 4) / DEVICES[name].tflops / 1e12, sum(made.seconds)
                kind = f"{title}: {made.form} {'cached' if made.cached else 'two passes' if made.two_passes else 'strict'}"
                times = f"{limit * 1e3:>7.1f} {seconds * 1e3:>8.1f} {seconds / limit:>5.3f} {made.seconds_with_sums / limit:>10.3f}"
                print(f"{name:6} {rows:>7}  {kind:<34} {made.bytes / 2**20:>6.0f} {times} {sum(made.bytes_moved) / 1e9:>9.0f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--roofline", action="store_true", help="the roofline alone")
    parser.add_argument("--target", type=int, action="append", help="compute capability x 10; may be given several times")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    arguments = parser.parse_args()
    roofline()
    if arguments.roofline:
        return 0
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("error: TRITON_INTERPRET=1 replaces the compiler; unset it")
        return 2
    try:
        from kernels_compiled import TARGETS, compiled, described, launches
    except ImportError:
        print("error: triton is not installed; pip install 'aer-lightning[triton]'")
        return 2
    print(f"\n{'target':>6}  {'kernel':<60} {'regs':>4} {'stack':>5} {'shared':>7} {'spills':>6} {'per element':>11}  instructions")
    spilled = 0
    for target in arguments.target or TARGETS:
        for launch in launches(described(target), thorough=True).values():
            if arguments.only not in launch.name:
                continue
            found = compiled(launch, target)
            spilled += bool(found.spills)
            block = launch.constant("BLOCK") if "BLOCK" in launch.signature else 0
            each = f"{found.path * 32 * launch.options.num_warps / block:.1f}" if block else "-"
            counts = " ".join(f"{name}:{count}" for name, count in found.instructions.items())
            numbers = f"{found.registers:>4} {found.stack:>5} {found.shared:>7} {found.spills:>6} {each:>11}"
            print(f"sm_{target:<3}  {launch.name:<60} {numbers}  {counts}", flush=True)
    return int(spilled > 0)


if __name__ == "__main__":
    sys.exit(main())
