"""The statistics in torch operations on blocks of the logits: any device, never more than the workspace of ``[N, V]`` at a time.

Forward and backward walk over the vocabulary in slices, so each slice of the weight's gradient is one product over all rows and is
rounded once; the gradient of the hidden states is summed in fp32. Element-wise work is done in place on blocks that stay in a CPU's cache.
Functions here compute under `torch.no_grad`; `aer_lightning.kernels.operators` makes them differentiable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from aer_lightning.kernels.partials import LOWEST_EXPONENT, NEGATIVE_INFINITY, accumulation_dtype, finish, finite_maximum, merge

__all__ = ["allocate_cache", "finish", "linear_backward", "linear_partials", "logits_backward", "logits_partials", "merge", "plan_cache"]

CPU_BLOCK_ELEMENTS = 1 << 21  # 8 MiB of fp32: two such buffers fit in the last-level cache of a small server


def logits_partials(logits: Tensor, targets: Tensor, inverse_temperature: Tensor | float) -> Tensor:
    """Partial statistics ``[4, 1, N]`` of logits ``[N, V]``; targets outside [0, V) leave z_y at 0."""
    rows, columns = logits.shape
    dtype = accumulation_dtype(logits.dtype)
    state = _empty_state(rows, dtype, logits.device)
    block_rows = _rows_per_block(columns, logits.device)
    shifted, exponential = (logits.new_empty(min(rows, block_rows) * columns, dtype=dtype) for _ in range(2))
    for start in range(0, rows, block_rows):
        stop = min(start + block_rows, rows)
        _accumulate(
            logits[start:stop], state[:, start:stop], targets[start:stop], _rows_of(inverse_temperature, start, stop), shifted, exponential
        )
    return state.unsqueeze(1)


def logits_backward(
    gradient: Tensor,
    logits: Tensor,
    targets: Tensor,
    inverse_temperature: Tensor | float,
    maximum: Tensor,
    log_sum: Tensor,
    entropy: Tensor,
    grad_logprob: Tensor,
    grad_entropy: Tensor | None,
) -> None:
    """Write the gradient of the logits ``[N, V]`` into `gradient`, which may be the logits themselves."""
    rows, columns = logits.shape
    dtype = accumulation_dtype(logits.dtype)
    block_rows = _rows_per_block(columns, logits.device)
    shifted, exponential = (logits.new_empty(min(rows, block_rows) * columns, dtype=dtype) for _ in range(2))
    factors = _Factors(inverse_temperature, maximum, log_sum, entropy, grad_logprob, grad_entropy)
    for start in range(0, rows, block_rows):
        stop = min(start + block_rows, rows)
        gradient[start:stop] = factors.rows(start, stop).differentiate(logits[start:stop], targets[start:stop], shifted, exponential)


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
    """Partial statistics ``[4, 1, N]`` of ``hidden @ weight.T + bias``; its first columns are kept in `cache`, as many as that has.

    `workspace` is the number of bytes of extra memory; the cache counts towards it.
    """
    rows, columns, cache_columns = hidden.shape[0], weight.shape[0], cache.shape[1]
    blocks = _Blocks.plan(hidden, weight, workspace - cache.numel() * cache.element_size(), backward=False)
    dtype = blocks.dtype
    state = _empty_state(rows, dtype, hidden.device)
    shifted, exponential = (hidden.new_empty(blocks.rows * blocks.columns, dtype=dtype) for _ in range(2))
    for start, stop in blocks.row_ranges(rows):
        operand = blocks.operand(hidden[start:stop])
        inverse = _rows_of(inverse_temperature, start, stop)
        for first, last in blocks.column_ranges(columns, cache_columns):
            shape = (stop - start, last - first)
            logits = cache[start:stop, first:last] if last <= cache_columns else _view(shifted, shape)
            _product(logits, operand, blocks.operand(weight[first:last]).T)
            if bias is not None:
                logits += bias[first:last]
            _accumulate(logits, state[:, start:stop], targets[start:stop] - first, inverse, shifted, exponential)
    return state.unsqueeze(1)


def linear_backward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    inverse_temperature: Tensor | float,
    maximum: Tensor,
    log_sum: Tensor,
    entropy: Tensor,
    grad_logprob: Tensor,
    grad_entropy: Tensor | None,
    cache: Tensor,
    cache_maximum: Tensor,
    workspace: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of hidden ``[N, D]`` (in the accumulation dtype), weight ``[V, D]`` and bias ``[V]``; None where `needs` says no."""
    rows, columns = hidden.shape[0], weight.shape[0]
    blocks = _Blocks.plan(hidden, weight, workspace - cache.numel() * cache.element_size(), backward=True)
    dtype = blocks.dtype
    grad_hidden = hidden.new_zeros(hidden.shape, dtype=dtype) if needs[0] else None
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format) if needs[1] else None
    grad_bias = torch.empty_like(bias) if bias is not None and needs[2] else None
    one_row_block = rows <= blocks.rows
    summed_weight = None
    if grad_weight is not None and weight.dtype != dtype and not (one_row_block and blocks.half):
        summed_weight = weight.new_empty((blocks.columns, weight.shape[1]), dtype=dtype)
    shifted, exponential = (hidden.new_empty(blocks.rows * blocks.columns, dtype=dtype) for _ in range(2))
    factors = _Factors(inverse_temperature, maximum, log_sum, entropy, grad_logprob, grad_entropy)
    operands = [blocks.operand(hidden)] if one_row_block else None
    # The vocabulary is the outer loop, so that a slice of the weight's gradient is complete, and rounded, once.
    for first, last in blocks.column_ranges(columns, cache.shape[1]):
        weight_operand = blocks.operand(weight[first:last])
        bias_sum = hidden.new_zeros(last - first, dtype=dtype) if grad_bias is not None else None
        for index, (start, stop) in enumerate(blocks.row_ranges(rows)):
            shape = (stop - start, last - first)
            operand = operands[0] if operands else blocks.operand(hidden[start:stop])
            if last <= cache.shape[1]:
                logits = cache[start:stop, first:last]
            else:
                logits = _view(shifted, shape)
                _product(logits, operand, weight_operand.T)
                if bias is not None:
                    logits += bias[first:last]
            gradient = factors.rows(start, stop).differentiate(logits, targets[start:stop] - first, shifted, exponential)
            if bias_sum is not None:
                bias_sum += gradient.sum(0)
            gradient = gradient.to(hidden.dtype) if blocks.half else gradient
            if grad_weight is not None:
                target = grad_weight[first:last] if summed_weight is None else summed_weight[: last - first]
                _product(target, gradient.T, operand, accumulate=index > 0)
            if grad_hidden is not None:
                _product(grad_hidden[start:stop], gradient, weight_operand, accumulate=True)
        if grad_weight is not None and summed_weight is not None:
            grad_weight[first:last] = summed_weight[: last - first]
        if grad_bias is not None and bias_sum is not None:
            grad_bias[first:last] = bias_sum
    return grad_hidden, grad_weight, grad_bias


def allocate_cache(hidden: Tensor, weight: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Room for the first columns of the logits ``[N, columns]``, and nothing for the tile maxima, which this backend does without."""
    dtype = accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype))
    return hidden.new_empty((hidden.shape[0], columns), dtype=dtype), hidden.new_empty((hidden.shape[0], 0), dtype=dtype)


def plan_cache(hidden: Tensor, weight: Tensor, workspace: int) -> int:
    """How many columns of the logits may be kept for the backward pass: all that fit in 3/4 of the workspace."""
    return min(weight.shape[0], (workspace * 3 // 4) // max(1, hidden.shape[0] * _item_size(hidden, weight)))


@dataclass(frozen=True)
class _Factors:
    """The numbers of each row ``[N]`` in dz = (g_lp (1[y] - p) - g_H p (l + H)) / T, where l = (z - m) / T - ln s and p = e^l."""

    inverse_temperature: Tensor | float
    maximum: Tensor
    log_sum: Tensor
    entropy: Tensor
    grad_logprob: Tensor
    grad_entropy: Tensor | None
    without_gradient: Tensor | None = None  # rows whose gradient is 0 whatever their logits are; None if there are none

    def __post_init__(self) -> None:
        if self.without_gradient is None:
            without = self.grad_logprob == 0
            if self.grad_entropy is not None:
                without &= self.grad_entropy == 0
            object.__setattr__(self, "without_gradient", without if bool(without.any()) else None)

    def rows(self, start: int, stop: int) -> _Factors:
        """Take the factors of rows start to stop."""
        return _Factors(
            _rows_of(self.inverse_temperature, start, stop),
            self.maximum[start:stop],
            self.log_sum[start:stop],
            self.entropy[start:stop],
            self.grad_logprob[start:stop],
            None if self.grad_entropy is None else self.grad_entropy[start:stop],
            None if self.without_gradient is None else self.without_gradient[start:stop],
        )

    def differentiate(self, logits: Tensor, targets: Tensor, shifted: Tensor, exponential: Tensor) -> Tensor:
        """Differentiate a block of logits ``[n, v]`` into `shifted`; the logits may lie in `shifted` and are overwritten then."""
        shape = logits.shape
        log_probability = torch.sub(logits, self.maximum.unsqueeze(1), out=_view(shifted, shape))
        _scale(log_probability, self.inverse_temperature)
        log_probability.sub_(self.log_sum.unsqueeze(1))
        probability = torch.exp(log_probability, out=_view(exponential, shape))
        if self.grad_entropy is None:
            gradient = torch.mul(probability, (-self.grad_logprob * self.inverse_temperature).unsqueeze(1), out=log_probability)
        else:
            slope = -self.grad_entropy * self.inverse_temperature
            constant = slope * self.entropy - self.grad_logprob * self.inverse_temperature
            log_probability.clamp_(min=LOWEST_EXPONENT)
            torch.addcmul(constant.unsqueeze(1), log_probability, slope.unsqueeze(1), out=log_probability)
            gradient = log_probability.mul_(probability)
        inside = (targets >= 0) & (targets < shape[1])
        at_target = (self.grad_logprob * self.inverse_temperature).where(inside, torch.zeros_like(self.grad_logprob))
        gradient.scatter_add_(1, targets.clamp(0, shape[1] - 1).unsqueeze(1), at_target.unsqueeze(1))
        if self.without_gradient is not None:
            gradient.masked_fill_(self.without_gradient.unsqueeze(1), 0.0)  # 0 times NaN
        return gradient


@dataclass(frozen=True)
class _Blocks:
    """How the ``[N, V]`` plane is cut: the rows and columns of a block, and in which dtype products are taken."""

    rows: int
    columns: int
    dtype: torch.dtype  # of the accumulators
    half: bool  # products of 16-bit operands with fp32 results, which only CUDA has

    @classmethod
    def plan(cls, hidden: Tensor, weight: Tensor, workspace: int, backward: bool) -> _Blocks:
        """Choose the largest blocks that the workspace (bytes) allows; on a CPU, none larger than its cache."""
        rows, columns, width = hidden.shape[0], weight.shape[0], hidden.shape[1]
        dtype = accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype))
        half = hidden.is_cuda and hidden.dtype == weight.dtype and hidden.dtype in (torch.float16, torch.bfloat16)
        elements = max(workspace, 0) // dtype.itemsize
        block_rows = min(rows, 1 << 13 if hidden.is_cuda else 1 << 11)
        # Per column: two buffers of the block, the fp32 copy of the weight's slice and the fp32 sum of its gradient where they are needed.
        per_column = 2 * block_rows
        if not half:
            per_column += width * (int(weight.dtype != dtype) + int(backward and weight.dtype != dtype))
            elements -= block_rows * width * int(hidden.dtype != dtype)
        elif backward:
            per_column += block_rows // 2 + width * int(rows > block_rows)
        block_columns = max(1, elements // max(1, per_column))
        if not hidden.is_cuda:
            block_columns = min(block_columns, max(1, CPU_BLOCK_ELEMENTS // max(1, block_rows)))
        multiple = 128 if block_columns >= 128 else 16 if block_columns >= 16 else 1
        return cls(max(1, block_rows), max(1, min(columns, block_columns // multiple * multiple)), dtype, half)

    def operand(self, tensor: Tensor) -> Tensor:
        """Convert a slice to what the products take."""
        return tensor if self.half else tensor.to(self.dtype)

    def row_ranges(self, rows: int) -> Iterator[tuple[int, int]]:
        """Start and stop of each block of rows."""
        for start in range(0, rows, self.rows):
            yield start, min(start + self.rows, rows)

    def column_ranges(self, columns: int, cached: int) -> Iterator[tuple[int, int]]:
        """First and last column of each block, none of which straddles the end of the cache."""
        for begin, end in ((0, cached), (cached, columns)):
            for first in range(begin, end, self.columns):
                yield first, min(first + self.columns, end)


def _accumulate(
    logits: Tensor, state: Tensor, targets: Tensor, inverse_temperature: Tensor | float, shifted: Tensor, exponential: Tensor
) -> None:
    """Add a block of logits ``[n, v]`` to the running statistics ``[4, n]``; the logits may lie in `shifted` and are overwritten then."""
    shape = logits.shape
    if shape[1] == 0:
        return
    inside = (targets >= 0) & (targets < shape[1])
    at_target = logits.gather(1, targets.clamp(0, shape[1] - 1).unsqueeze(1)).squeeze(1).to(state.dtype)
    block = torch.empty_like(state)
    block[0] = logits.amax(1)
    distance = torch.sub(logits, finite_maximum(block[0]).unsqueeze(1), out=_view(shifted, shape))
    _scale(distance, inverse_temperature)
    weights = torch.exp(distance, out=_view(exponential, shape))
    torch.sum(weights, 1, out=block[1])
    distance.clamp_(min=LOWEST_EXPONENT)  # 0 * -inf
    torch.sum(distance.mul_(weights), 1, out=block[2])
    block[3] = at_target.where(inside, torch.zeros_like(at_target))
    state.copy_(merge(torch.stack((state, block), 1), inverse_temperature))


def _empty_state(rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    state = torch.zeros((4, rows), dtype=dtype, device=device)
    state[0] = NEGATIVE_INFINITY
    return state


def _rows_per_block(columns: int, device: torch.device) -> int:
    elements = CPU_BLOCK_ELEMENTS if device.type == "cpu" else CPU_BLOCK_ELEMENTS * 16
    return max(1, elements // max(1, columns))


def _rows_of(values: Tensor | float, start: int, stop: int) -> Tensor | float:
    return values[start:stop] if isinstance(values, Tensor) else values


def _scale(block: Tensor, inverse_temperature: Tensor | float) -> None:
    if isinstance(inverse_temperature, Tensor):
        block.mul_(inverse_temperature.unsqueeze(1))
    elif inverse_temperature != 1.0:
        block.mul_(inverse_temperature)


def _view(buffer: Tensor, shape: torch.Size | tuple[int, int]) -> Tensor:
    return buffer[: shape[0] * shape[1]].view(shape)


def _product(out: Tensor, left: Tensor, right: Tensor, accumulate: bool = False) -> None:
    """``out (+)= left @ right``; 16-bit operands with an fp32 result are summed and returned in fp32 (CUDA)."""
    beta = 1 if accumulate else 0
    if left.dtype == out.dtype:
        torch.addmm(out, left, right, beta=beta, out=out)
    else:
        torch.addmm(out, left, right, out_dtype=out.dtype, beta=beta, out=out)


def _item_size(hidden: Tensor, weight: Tensor) -> int:
    return accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype)).itemsize
