"""Which rows take part, and what goes in and comes out for those that do not."""

from __future__ import annotations

import torch
from torch import Tensor

from aer_lightning.errors import DataError

Upstream = tuple[Tensor | None, Tensor | None, Tensor | None]


def kept_rows(targets: Tensor, ignore_index: int | None, vocabulary: int) -> tuple[Tensor | None, Tensor | None]:
    """Find the rows that are not ignored, as a mask and as indices; None for both where there is none that is.

    Raises:
        DataError: the first row whose target is neither ignored nor in [0, vocabulary). Not checked while a CUDA graph is captured.
    """
    if _capturing(targets):
        return (None if ignore_index is None else targets != ignore_index), None
    if targets.numel() == 0:
        return None, None
    lowest, highest = torch.stack(torch.aminmax(targets)).tolist()  # one wait for the device, not two
    in_range = lowest >= 0 and highest < vocabulary
    if in_range and (ignore_index is None or ignore_index < lowest or ignore_index > highest):
        return None, None
    kept = torch.ones_like(targets, dtype=torch.bool) if ignore_index is None else targets != ignore_index
    outside = kept & ((targets < 0) | (targets >= vocabulary))
    if not in_range and bool(outside.any()):
        row = int(outside.nonzero()[0])
        hint = "" if ignore_index is not None else " (set ignore_index to leave rows out)"
        raise DataError(f"targets: row {row} is {int(targets[row])}, outside the vocabulary of {vocabulary}{hint}")
    return kept, selected_rows(kept)


def selected_rows(mask: Tensor) -> Tensor | None:
    """Find the indices where the mask holds, None if everywhere (or if asking would break the capture of a CUDA graph)."""
    if _capturing(mask) or bool(mask.all()):
        return None
    return mask.nonzero().squeeze(1)


def _capturing(tensor: Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def check_row_temperature(temperature: Tensor | None, kept: Tensor | None) -> None:
    """Raise DataError where the temperature of a row that is not ignored is not above 0 and finite."""
    if temperature is None or _capturing(temperature):
        return
    wrong = ~((temperature > 0) & temperature.isfinite())
    wrong = wrong if kept is None else wrong & kept
    if bool(wrong.any()):
        raise DataError(f"temperature: row {int(wrong.nonzero()[0])} is not above 0 and finite")


def upstream(gradients: tuple[Tensor | None, ...], kept: Tensor | None) -> Upstream:
    """Contiguous upstream gradients ``[N]`` of log-probability, entropy and log-sum-exp, 0 at ignored rows; None stays None."""
    found: list[Tensor | None] = []
    for gradient in gradients:
        if gradient is None or gradient.numel() == 0:
            found.append(None)
        else:
            found.append(gradient.contiguous() if kept is None else gradient.where(kept, torch.zeros_like(gradient)))
    return found[0], found[1], found[2]


def spread(value: Tensor, kept: Tensor | None, index: Tensor | None) -> Tensor:
    """Put a result ``[..., n]`` in all N rows; those that were left out are 0."""
    if kept is None:
        return value
    if index is None:
        return value.where(kept, torch.zeros_like(value))
    return value.new_zeros(*value.shape[:-1], kept.shape[0]).index_copy_(-1, index, value)
