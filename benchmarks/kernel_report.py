"""Print what every Triton kernel compiles to, for three generations of GPUs, without having one.

    python benchmarks/kernel_report.py [--target 90] [--only "product gradient"]

Registers a thread, bytes of stack and of shared memory, spills, and the instructions that matter: HMMA (mma.sync), HGMMA (wgmma) and
UTCHMMA (tcgen05) are matrix products, UTMALDG and LDGSTS asynchronous copies, MUFU exponentials. Exits with 1 if a kernel spills.
"""

from __future__ import annotations

import argparse
import os
import sys


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", type=int, action="append", help="compute capability x 10; may be given several times (80, 90 and 100)")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    arguments = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("error: TRITON_INTERPRET=1 replaces the compiler; unset it")
        return 2
    try:
        from aer_lightning.kernels.report import TARGETS, cases, compile_case
    except ImportError:
        print("error: triton is not installed; pip install 'aer-lightning[triton]'")
        return 2
    print(f"{'target':>6}  {'kernel':<52} {'regs':>4} {'stack':>5} {'shared':>7} {'spills':>7}  instructions")
    spilled = 0
    for target in arguments.target or TARGETS:
        for case in cases(target):
            if arguments.only not in case.name:
                continue
            found = compile_case(case, target)
            spills = found.spill_stores + found.spill_loads
            spilled += bool(spills)
            counts = " ".join(f"{name}:{count}" for name, count in found.instructions.items())
            print(
                f"sm_{target:<3}  {case.name:<52} {found.registers:>4} {found.stack:>5} {found.shared:>7} {spills:>7}  {counts}", flush=True
            )
    return int(spilled > 0)


if __name__ == "__main__":
    sys.exit(main())
