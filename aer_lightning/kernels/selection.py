"""Which rows take part, and what goes in and comes out for those that do not."""

from __future__ import annotations

import torch
from torch import Tensor

from aer_lightning.errors import DataError
from aer_lightning.kernels.partials import RowStatistics


def plain_dispatch(tensor: Tensor) -> torch.autocast:
    """Switch autocast off: inside an operator the dtypes are already chosen."""
    return torch.autocast(tensor.device.type, enabled=False)


def upstream(
    grad_logprob: Tensor | None, grad_entropy: Tensor | None, targets: Tensor, ignore_index: int | None, like: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Make contiguous upstream gradients ``[N]``, 0 at ignored rows; that of the entropy stays None if there is none."""
    grad_logprob = torch.zeros_like(like) if grad_logprob is None else grad_logprob.contiguous()
    grad_entropy = None if grad_entropy is None else grad_entropy.contiguous()
    if ignore_index is not None:
        kept = targets != ignore_index
        grad_logprob = grad_logprob.where(kept, torch.zeros_like(grad_logprob))
        grad_entropy = None if grad_entropy is None else grad_entropy.where(kept, torch.zeros_like(grad_entropy))
    return grad_logprob, grad_entropy


def kept_rows(targets: Tensor, ignore_index: int | None, vocabulary: int) -> tuple[Tensor | None, Tensor | None]:
    """Find mask and index of the rows that count, None where all do; raises DataError where one of their targets is out of range."""
    if _capturing(targets):
        return None if ignore_index is None else targets != ignore_index, None
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


def check_row_temperature(temperature: Tensor) -> None:
    """Raise DataError where a row's temperature is not above 0."""
    if not _capturing(temperature) and not bool((temperature > 0).all()):
        raise DataError(f"temperature: row {int((~(temperature > 0)).nonzero()[0])} is not above 0")


def inverse_temperature(row_temperature: Tensor | None, temperature: float, index: Tensor | None, dtype: torch.dtype) -> Tensor | float:
    """Invert the temperature: a float, or that of the selected rows."""
    if row_temperature is None:
        return 1.0 / temperature
    values = row_temperature if index is None else row_temperature[index]
    return values.to(dtype).reciprocal()


def spread(statistics: RowStatistics, kept: Tensor | None, index: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Put the results back in all rows; those that were left out are 0."""
    if kept is None:
        return tuple(statistics)  # type: ignore[return-value]
    if index is None:
        return tuple(value.where(kept, torch.zeros_like(value)) for value in statistics)  # type: ignore[return-value]
    return tuple(value.new_zeros(kept.shape[0]).index_copy_(0, index, value) for value in statistics)  # type: ignore[return-value]
