"""Checksums of sampled weights: whether an engine serves the trainer's weights, to the bit, and not only about the same.

A mean difference of log-probabilities has no power in low precision: one step at a learning rate of 1e-6 hides in the rounding. A
checksum does not: of some ten thousand weights read, the step moves a few hundred to another bfloat16 value.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING

from aer_lightning.errors import StaleWeightsError

if TYPE_CHECKING:
    import torch

COLUMNS = 32  # of a matrix; a vector is read whole


def sampled_columns(width: int) -> list[int]:
    """Evenly spaced columns of a matrix, at most 32.

    Worked example: of 100 columns every fourth is read, 25 in all: 0, 4, 8, ..., 96.

    >>> sampled_columns(3), sampled_columns(100)[-1], len(sampled_columns(4096)), sampled_columns(4096)[-1]
    ([0, 1, 2], 96, 32, 3968)
    """
    return list(range(0, width, -(-width // COLUMNS)))


def sampled_part(weight: torch.Tensor) -> torch.Tensor:
    """What is read of a weight: ``[N, C]`` of a matrix ``[N, K]``, all of any other shape."""
    return weight[:, sampled_columns(weight.shape[1])] if weight.ndim == 2 else weight


def digest(part: torch.Tensor) -> str:
    """Sixteen hexadecimal digits of the values in ``part``, whatever its floating type, strides and device; -0 counts as 0."""
    values = part.detach().float().cpu().contiguous() + 0.0
    return blake2b(values.numpy().tobytes(), digest_size=8).hexdigest()


def checksum(weight: torch.Tensor, dtype: torch.dtype) -> str:
    """Checksum of a trainer's full weight as an engine that serves ``dtype`` must hold it.

    Args:
        weight: full (not sharded) tensor, any floating type, any device.
        dtype: ``engine.weight_dtype``.
    """
    return digest(sampled_part(weight.detach()).to(dtype))


def compare_checksums(trainer: Mapping[str, str], served: Mapping[str, str]) -> None:
    """Compare what both have; a name that only one side could read says nothing.

    Raises:
        StaleWeightsError: a weight differs.
    """
    wrong = [name for name in trainer if name in served and served[name] != trainer[name]]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise StaleWeightsError(
            f"the engine does not serve the policy's weights: {', '.join(wrong[:3])}{more} of {len(trainer)} sampled ones differ; "
            "the weights changed after the last sync, or the sync did not reach the engine"
        )
