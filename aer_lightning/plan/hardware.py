"""Accelerators by name: what their data sheets say, and the share of it that a run is taken to reach."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    name: str
    memory_gib: float
    tflops: float | None = None
    bandwidth_gbs: float | None = None
    link_gbs: float | None = None


# NVIDIA's data sheets (SXM parts; the 4090's is the card's); memory as the driver reports it.
ACCELERATORS = {
    "h100-80gb": Accelerator("h100-80gb", 79.1, 989.0, 3350.0, 450.0),
    "h200-141gb": Accelerator("h200-141gb", 139.8, 989.0, 4800.0, 450.0),
    "a100-80gb": Accelerator("a100-80gb", 79.1, 312.0, 2039.0, 300.0),
    "rtx4090-24gb": Accelerator("rtx4090-24gb", 23.5, 165.0, 1008.0, 32.0),
}
# Shares of the above that the times assume; stated in every report. None was measured here.
UTILISATION = {"train": 0.40, "score": 0.45, "decode_bandwidth": 0.60, "link": 0.70}


def accelerator(name: str) -> Accelerator:
    """The accelerator of a name, or one of so many GiB.

    Raises:
        ConfigError: neither; the message lists the names.

    Example:
        >>> accelerator("48").memory_gib
        48.0
    """
    if name in ACCELERATORS:
        return ACCELERATORS[name]
    try:
        memory = float(name)
    except ValueError:
        memory = 0.0
    if not memory > 0 or memory == float("inf"):
        raise ConfigError(f"gpu: no accelerator {name!r}; use one of {', '.join(ACCELERATORS)}, or a number of GiB")
    return Accelerator(f"{memory:g} GiB", memory)
