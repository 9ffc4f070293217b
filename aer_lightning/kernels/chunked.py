"""The backend in torch operations: any device, never more than the workspace of ``[N, V]`` at a time.

Element-wise work is done in place on blocks that stay in a CPU's last-level cache. Functions here compute without autograd;
`aer_lightning.kernels.operators` makes them differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aer_lightning.kernels import linear
from aer_lightning.kernels.blocks import CPU_BLOCK_ELEMENTS, Blocks
from aer_lightning.kernels.linear import Factors, has_mixed_products, product, rows_of
from aer_lightning.kernels.partials import LOWEST_EXPONENT, accumulation_dtype, finish, finite_maximum, merge

__all__ = [
    "allocate_cache",
    "finish",
    "linear_backward",
    "linear_partials",
    "logits_backward",
    "logits_partials",
    "merge",
    "plan_cache",
]


def logits_partials(logits: Tensor, targets: Tensor, inverse_temperature: Tensor | float) -> Tensor:
    """Compute the partial statistics ``[4, 1, N]`` of logits ``[N, V]``; targets outside [0, V) leave z_y at 0."""
    rows, columns = logits.shape
    partials = logits.new_empty((4, 1, rows), dtype=accumulation_dtype(logits.dtype))
    block_rows = _rows_per_block(columns, logits.device)
    scratch = _scratch(logits, min(rows, block_rows) * columns, partials.dtype)
    for start in range(0, rows, block_rows):
        stop = min(start + block_rows, rows)
        inverse = rows_of(inverse_temperature, start, stop)
        _statistics(partials[:, 0, start:stop], logits[start:stop], targets[start:stop], inverse, *scratch)
    return partials


def logits_backward(gradient: Tensor, logits: Tensor, targets: Tensor, factors: Factors) -> None:
    """Write the gradient of the logits ``[N, V]`` into `gradient`, which may be the logits themselves."""
    rows, columns = logits.shape
    block_rows = _rows_per_block(columns, logits.device)
    scratch = _scratch(logits, min(rows, block_rows) * columns, accumulation_dtype(logits.dtype))
    for start in range(0, rows, block_rows):
        stop = min(start + block_rows, rows)
        if gradient.dtype == scratch[0].dtype and gradient.is_contiguous():
            scratch = (gradient[start:stop].view(-1), scratch[1])
        result = _differentiate(logits[start:stop], targets[start:stop], factors.rows(start, stop), *scratch)
        if result.data_ptr() != gradient[start:stop].data_ptr():
            gradient[start:stop] = result


def linear_partials(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    inverse_temperature: Tensor | float,
    workspace: int,
    cache: Tensor,
    cache_maximum: Tensor,
) -> Tensor:
    """See `linear.linear_partials`; `workspace` is the number of bytes of extra memory, of which the cache is a part."""
    engine = _TorchRows(hidden, weight, workspace - cache.numel() * cache.element_size(), backward=False)
    return linear.linear_partials(engine, hidden, weight, bias, targets, inverse_temperature, cache, cache_maximum)


def linear_backward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    factors: Factors,
    cache: Tensor,
    cache_maximum: Tensor,
    workspace: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """See `linear.linear_backward`."""
    engine = _TorchRows(hidden, weight, workspace - cache.numel() * cache.element_size(), backward=True)
    return linear.linear_backward(engine, hidden, weight, bias, targets, factors, cache, cache_maximum, needs)


def allocate_cache(hidden: Tensor, weight: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Make room for the first columns of the logits ``[N, columns]``, and for no tile maxima, which this backend does without."""
    dtype = accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype))
    return hidden.new_empty((hidden.shape[0], columns), dtype=dtype), hidden.new_empty((hidden.shape[0], 0), dtype=dtype)


def plan_cache(hidden: Tensor, weight: Tensor, workspace: int) -> int:
    """Decide how many columns of the logits are kept for the backward pass: all that fit in 3/4 of the workspace."""
    size = accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype)).itemsize
    return min(weight.shape[0], (workspace * 3 // 4) // max(1, hidden.shape[0] * size))


class _TorchRows:
    """Blocks of logits by torch: two buffers of the block, used in place."""

    def __init__(self, hidden: Tensor, weight: Tensor, workspace: int, backward: bool) -> None:
        half = hidden.dtype == weight.dtype and hidden.dtype in (torch.float16, torch.bfloat16)
        half = half and has_mixed_products(hidden.device, hidden.dtype)
        size = 2 * accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype)).itemsize
        self.blocks = Blocks.plan(hidden, weight, workspace, backward, size + 2 * int(half and backward), half)
        self.dtype = hidden.dtype if half else self.blocks.dtype
        self.scratch = _scratch(hidden, self.blocks.rows * self.blocks.columns, self.blocks.dtype)

    def merge(self, partials: Tensor, inverse_temperature: Tensor | float) -> Tensor:
        return merge(partials, inverse_temperature)

    def product(self, out: Tensor, left: Tensor, right: Tensor, accumulate: bool = False) -> None:
        product(out, left, right, accumulate)

    def project_statistics(
        self,
        partials: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        first: int,
        inverse_temperature: Tensor | float,
        cache: Tensor | None,
        cache_maximum: Tensor,
    ) -> None:
        logits = self._project(cache, hidden, weight, bias)
        _statistics(partials, logits, targets - first, inverse_temperature, *self.scratch)

    def project_gradient(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, first: int, factors: Factors
    ) -> Tensor:
        return _differentiate(self._project(None, hidden, weight, bias), targets - first, factors, *self.scratch).to(self.dtype)

    def cached_gradient(self, cache: Tensor, cache_maximum: Tensor, targets: Tensor, first: int, factors: Factors) -> Tensor:
        return _differentiate(cache, targets - first, factors, *self.scratch).to(self.dtype)

    def _project(self, out: Tensor | None, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        logits = _view(self.scratch[0], (hidden.shape[0], weight.shape[0])) if out is None else out
        product(logits, hidden, weight.T)
        if bias is not None:
            logits += bias
        return logits


def _statistics(
    partials: Tensor, logits: Tensor, targets: Tensor, inverse_temperature: Tensor | float, shifted: Tensor, exponential: Tensor
) -> None:
    """Write the statistics ``[4, n]`` of a block of logits ``[n, v]``; the logits may lie in `shifted` and are overwritten then."""
    shape = logits.shape
    inside = (targets >= 0) & (targets < shape[1])
    at_target = logits.gather(1, targets.clamp(0, shape[1] - 1).unsqueeze(1)).squeeze(1).to(partials.dtype)
    maximum = logits.amax(1).to(partials.dtype)
    distance = torch.sub(logits, finite_maximum(maximum).unsqueeze(1), out=_view(shifted, shape))
    _scale(distance, inverse_temperature)
    weights = torch.exp(distance, out=_view(exponential, shape))
    partials[0] = maximum
    partials[1] = weights.sum(1)
    distance.clamp_(min=LOWEST_EXPONENT)  # 0 * -inf
    partials[2] = distance.mul_(weights).sum(1)
    partials[3] = at_target.where(inside, torch.zeros_like(at_target))


def _differentiate(logits: Tensor, targets: Tensor, factors: Factors, shifted: Tensor, exponential: Tensor) -> Tensor:
    """Differentiate a block of logits ``[n, v]`` into `shifted`; the logits may lie in `shifted` and are overwritten then."""
    shape = logits.shape
    log_probability = torch.sub(logits, factors.maximum.unsqueeze(1), out=_view(shifted, shape))
    _scale(log_probability, factors.inverse_temperature)
    log_probability.sub_(factors.log_sum.unsqueeze(1))
    probability = torch.exp(log_probability, out=_view(exponential, shape))
    at_target = factors.grad_logprob * factors.inverse_temperature
    without = at_target == 0
    if factors.grad_entropy is None:
        gradient = torch.mul(probability, -at_target.unsqueeze(1), out=log_probability)
    else:
        slope = -factors.grad_entropy * factors.inverse_temperature
        without &= slope == 0
        log_probability.clamp_(min=LOWEST_EXPONENT)  # 0 * -inf
        gradient = log_probability.mul_(slope.unsqueeze(1)).add_((slope * factors.entropy - at_target).unsqueeze(1)).mul_(probability)
    inside = (targets >= 0) & (targets < shape[1])
    at_target = at_target.where(inside, torch.zeros_like(at_target))
    gradient.scatter_add_(1, targets.clamp(0, shape[1] - 1).long().unsqueeze(1), at_target.unsqueeze(1))
    if gradient.is_cuda or bool(without.any()):
        gradient.masked_fill_(without.unsqueeze(1), 0.0)  # exactly, also where a logit is NaN
    return gradient


def _scratch(like: Tensor, elements: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return like.new_empty(elements, dtype=dtype), like.new_empty(elements, dtype=dtype)


def _rows_per_block(columns: int, device: torch.device) -> int:
    elements = CPU_BLOCK_ELEMENTS if device.type == "cpu" else CPU_BLOCK_ELEMENTS * 16
    return max(1, elements // max(1, columns))


def _scale(block: Tensor, inverse_temperature: Tensor | float) -> None:
    if isinstance(inverse_temperature, Tensor):
        block.mul_(inverse_temperature.unsqueeze(1))
    elif inverse_temperature != 1.0:
        block.mul_(inverse_temperature)


def _view(buffer: Tensor, shape: torch.Size | tuple[int, int]) -> Tensor:
    return buffer[: shape[0] * shape[1]].view(shape)
