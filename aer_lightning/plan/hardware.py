"""Accelerators by name: what their data sheets say, and the share of it that a run is taken to reach."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from aer_lightning.errors import ConfigError


@dataclass(frozen=True)
class Accelerator:
    """One device.

    Attributes:
        name: as given on the command line.
        memory_gib: what a process can allocate, GiB.
        tflops: dense bf16 products, TFLOP/s; None where only the memory is known.
        bandwidth_gbs: memory, GB/s; None likewise.
        link_gbs: to the other devices of its node, GB/s each way; None likewise.
        host: whether it is the host itself (a CPU), whose memory all processes of a node share with their engines.
    """

    name: str
    memory_gib: float
    tflops: float | None = None
    bandwidth_gbs: float | None = None
    link_gbs: float | None = None
    host: bool = False


# NVIDIA's data sheets (SXM parts; the 4090's is the card's); memory as the driver reports it.
ACCELERATORS = {
    "h100-80gb": Accelerator("h100-80gb", 79.1, 989.0, 3350.0, 450.0),
    "h200-141gb": Accelerator("h200-141gb", 139.8, 989.0, 4800.0, 450.0),
    "a100-80gb": Accelerator("a100-80gb", 79.1, 312.0, 2039.0, 300.0),
    "rtx4090-24gb": Accelerator("rtx4090-24gb", 23.5, 165.0, 1008.0, 32.0),
}
CPU = "cpu"
# Shares of the above that the times assume; stated in every report. None was measured here.
UTILISATION = {"train": 0.40, "score": 0.45, "decode_bandwidth": 0.60, "link": 0.70}


def accelerator(name: str) -> Accelerator:
    """The accelerator of a name, one of so many GiB, or the CPU: ``cpu`` with this machine's memory, ``cpu-64gib`` with that of another.

    Raises:
        ConfigError: none of them; the message lists the names.

    Example:
        >>> accelerator("48").memory_gib
        48.0
        >>> accelerator("cpu-64gib").memory_gib
        64.0
    """
    if name in ACCELERATORS:
        return ACCELERATORS[name]
    if name == CPU:
        return Accelerator(CPU, host_memory_gib(), host=True)
    host = name.startswith(f"{CPU}-") and name.endswith("gib")
    try:
        memory = float(name.removeprefix(f"{CPU}-").removesuffix("gib") if host else name)
    except ValueError:
        memory = 0.0
    if not memory > 0 or memory == float("inf"):
        known = ", ".join(ACCELERATORS)
        raise ConfigError(f"gpu: no accelerator {name!r}; use one of {known}, a number of GiB, or cpu (cpu-64gib for another machine's)")
    return Accelerator(f"{memory:g} GiB" if not host else name, memory, host=host)


def host_memory_gib() -> float:
    """Memory of this machine, or what its control group allows if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(limit).read_text().strip() if Path(limit).is_file() else ""
        if text.isdigit():
            total = min(total, int(text))
    return total / 2**30
