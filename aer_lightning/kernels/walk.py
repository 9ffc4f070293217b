"""The walk over the blocks of ``hidden @ weight.T``, forward and backward: the same for every backend.

Backward, columns are the outer loop: each slice of the weight's gradient is then complete when it is left, one product over all rows (or an
fp32 sum of few), and is rounded once; the gradient of the hidden states is summed in fp32. Chunking over the tokens instead adds up rounded
gradients of the weight: a relative error of 4e-2 in bf16 with 1024 chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from aer_lightning.kernels.planning import SLOTS, Plan
from aer_lightning.kernels.statistics import accumulation_dtype, merge, product_dtype


@dataclass(frozen=True)
class Head:
    """The inputs of a call, and their slices as operands of the products."""

    hidden: Tensor  # [N, D]
    weight: Tensor  # [V, D]
    bias: Tensor | None  # [V]
    targets: Tensor  # [n], counted from the first row of `weight`
    inverse: Tensor | float  # 1 / T, [n] or one for all
    squash: float
    plan: Plan
    index: Tensor | None = None  # the rows of `hidden` that take part, None for all
    weight_cast: Tensor | None = None  # `weight` in the dtype of the hidden states, if there is one already

    @property
    def rows(self) -> int:
        """How many rows take part."""
        return self.targets.shape[0]

    @property
    def dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """Of the operands (fp32 where the device has no products of 16-bit operands with an fp32 sum) and of the sums."""
        full = accumulation_dtype(self.hidden.dtype, self.weight.dtype)
        return (product_dtype(self.hidden.dtype, self.weight.dtype) if self.plan.itemsize == 2 else full), full

    def hidden_rows(self, start: int, stop: int) -> Tensor:
        """Rows start to stop of those that take part, as an operand."""
        rows = self.hidden[start:stop] if self.index is None else self.hidden[self.index[start:stop]]
        return rows.to(self.dtypes[0])

    def weight_rows(self, first: int, last: int) -> Tensor:
        """A slice of the weight as an operand: rounded to the dtype of the hidden states first."""
        source = self.weight if self.weight_cast is None else self.weight_cast
        rounded = source[first:last].to(product_dtype(self.hidden.dtype, self.weight.dtype))
        return rounded.to(self.dtypes[0])

    def block(
        self,
        rows: tuple[int, int],
        columns: tuple[int, int],
        hidden: Tensor,
        weight: Tensor,
        kept: Cache | None,
        logits: Tensor | None = None,
    ) -> Block:
        """One block of the logits."""
        down, across = slice(*rows), slice(*columns)
        cache, maximum = (None, None) if kept is None else (kept.logits[down, across], kept.maximum[down])
        bias, targets = None if self.bias is None else self.bias[across], self.targets[down] - columns[0]
        return Block(hidden, weight, logits, bias, targets, rows_of(self.inverse, *rows), self.squash, cache, maximum, columns[0])


@dataclass(frozen=True)
class Cache:
    """Kept logits ``[n, V]`` in the accumulation dtype; or in 16 bit (x - maximum of the tile) / (T ln 2), and those ``[n, tiles]``."""

    logits: Tensor
    maximum: Tensor


@dataclass(frozen=True)
class Block:
    """A block of the logits ``[n, v]`` as a backend sees it."""

    hidden: Tensor  # [n, D]
    weight: Tensor  # [v, D]
    logits: Tensor | None  # [n, v] without the bias, if they are there already
    bias: Tensor | None  # [v]
    targets: Tensor  # [n], counted from the first column of the block
    inverse: Tensor | float
    squash: float
    cache: Tensor | None  # [n, v]
    maximum: Tensor | None  # [n, all tiles]
    first: int  # column, to find the tile


class Engine(Protocol):
    """What a backend does with a block."""

    def statistics(self, block: Block, out: Tensor, top: tuple[float, float] | None) -> None:
        """Write m, r, b, x_y of the block to `out` ``[4, n]``, and keep its logits where there is a cache.

        With `top` (share, mass) the block is a whole row, and `out` is ``[7, n]``: with the threshold, and r and b of the top.
        """

    def gradient(self, block: Block, factors: Tensor, computed: bool) -> Tensor:
        """The gradient ``[n, v]`` as an operand of products, valid until the next call; from the cache (and over it) if not `computed`."""


def forward(engine: Engine, head: Head, kept: Cache | None, top: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """Partial statistics merged to ``[4, n]``, and those of the top ``[3, n]`` (or ``[0, n]``)."""
    plan, columns = head.plan, head.weight.shape[0]
    ranges = list(spans(columns, plan.columns))
    slots = 1 if top else min(SLOTS, max(2, len(ranges)))
    dtype = head.dtypes[1]
    merged, tops = head.hidden.new_empty((4, head.rows), dtype=dtype), head.hidden.new_empty((3 if top else 0, head.rows), dtype=dtype)
    for rows in spans(head.rows, plan.scan_rows if top else plan.rows):
        hidden, inverse = head.hidden_rows(*rows), rows_of(head.inverse, *rows)
        partials = head.hidden.new_empty((7 if top else 4, slots, rows[1] - rows[0]), dtype=dtype)
        if top:
            logits = head.hidden.new_empty((rows[1] - rows[0], columns), dtype=dtype)
            for span in ranges:
                product(logits[:, span[0] : span[1]], hidden, head.weight_rows(*span).T)
            engine.statistics(head.block(rows, (0, columns), hidden, head.weight, kept, logits), partials[:, 0], top)
            merged[:, rows[0] : rows[1]], tops[:, rows[0] : rows[1]] = partials[:4, 0], partials[4:, 0]
            continue
        filled = 0
        for span in ranges:
            if filled == slots:
                partials[:, 0], filled = merge(partials, inverse), 1
            engine.statistics(head.block(rows, span, hidden, head.weight_rows(*span), kept), partials[:, filled], None)
            filled += 1
        merged[:, rows[0] : rows[1]] = merge(partials[:, :filled], inverse) if filled > 1 else partials[:, 0]
    return merged, tops


def backward(
    engine: Engine,
    head: Head,
    kept: Cache | None,
    factors: Tensor,
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None],
    add: bool,
) -> None:
    """Write the gradients of hidden ``[N, D]``, weight and bias where there is a tensor for them; `add` adds to the weight's instead."""
    grad_hidden, grad_weight, grad_bias = gradients
    plan = head.plan
    scale = gradient_scale(factors, head.dtypes[0])
    if scale != 1.0:
        factors[3:6] *= scale
    if kept is not None:
        whole = head.dtypes[0] == head.weight.dtype
        plan = replace(plan, rows=head.rows, columns=head.weight.shape[0] if whole else plan.columns)
    with exact_reductions(head.dtypes[0]):
        if plan.two_passes and kept is None and grad_hidden is not None:
            _hidden_pass(engine, head, plan, factors, grad_hidden, 1 / scale)
            grad_hidden = None
        if any(gradient is not None for gradient in (grad_hidden, grad_weight, grad_bias)):
            _column_pass(engine, head, plan, kept, factors, (grad_hidden, grad_weight, grad_bias), add, 1 / scale)


def _column_pass(
    engine: Engine,
    head: Head,
    plan: Plan,
    kept: Cache | None,
    factors: Tensor,
    gradients: tuple[Tensor | None, ...],
    add: bool,
    alpha: float,
) -> None:
    grad_hidden, grad_weight, grad_bias = gradients
    operand, full = head.dtypes
    row_spans = list(spans(head.rows, plan.rows))
    column_spans = list(spans(head.weight.shape[0], plan.columns))
    sums = grad_hidden
    if grad_hidden is not None and (head.index is not None or (grad_hidden.dtype != full and (len(column_spans) > 1 or operand == full))):
        sums = head.hidden.new_empty((head.rows, head.hidden.shape[1]), dtype=full)
    # The slice of the weight's gradient is summed in fp32 unless it is one product, which rounds once by itself.
    weight_sums = None
    if grad_weight is not None and grad_weight.dtype != full and (len(row_spans) > 1 or grad_weight.dtype != operand):
        weight_sums = head.weight.new_empty((min(plan.columns, head.weight.shape[0]), head.weight.shape[1]), dtype=full)
    alone = head.hidden_rows(*row_spans[0]) if len(row_spans) == 1 else None
    for number, span in enumerate(column_spans):
        weight = head.weight_rows(*span)
        bias_sum = head.hidden.new_zeros(span[1] - span[0], dtype=full) if grad_bias is not None else None
        for position, rows in enumerate(row_spans):
            hidden = alone if alone is not None else head.hidden_rows(*rows)
            block = head.block(rows, span, hidden, weight, kept)
            gradient = engine.gradient(block, factors[:, rows[0] : rows[1]], computed=kept is None)
            if bias_sum is not None:
                bias_sum += gradient.sum(0, dtype=full)
            if grad_weight is not None:
                target = grad_weight[span[0] : span[1]] if weight_sums is None else weight_sums[: span[1] - span[0]]
                product(target, gradient.T, hidden, position > 0 or (add and weight_sums is None), alpha)
            if sums is not None:
                product(sums[rows[0] : rows[1]], gradient, weight, number > 0, alpha)
        if grad_weight is not None and weight_sums is not None:
            grad_weight[span[0] : span[1]] = weight_sums[: span[1] - span[0]]
        if grad_bias is not None and bias_sum is not None:
            grad_bias[span[0] : span[1]] = bias_sum * alpha
    if grad_hidden is not None and sums is not None and sums is not grad_hidden:
        _put(grad_hidden, head.index, sums, 0)


def _hidden_pass(engine: Engine, head: Head, plan: Plan, factors: Tensor, grad_hidden: Tensor, alpha: float) -> None:
    for rows in spans(head.rows, plan.rows):
        hidden = head.hidden_rows(*rows)
        sums = head.hidden.new_empty(hidden.shape, dtype=head.dtypes[1])
        for number, span in enumerate(spans(head.weight.shape[0], plan.columns)):
            weight = head.weight_rows(*span)
            gradient = engine.gradient(head.block(rows, span, hidden, weight, None), factors[:, rows[0] : rows[1]], computed=True)
            product(sums, gradient, weight, number > 0, alpha)
        _put(grad_hidden, head.index, sums, rows[0])


def _put(out: Tensor, index: Tensor | None, values: Tensor, start: int) -> None:
    """Round rows into their places, some at a time: a rounded copy of all would not be in the plan."""
    for first, last in spans(values.shape[0], max(1, values.shape[0] // 16)):
        if index is None:
            out[start + first : start + last] = values[first:last]
        else:
            out[index[start + first : start + last]] = values[first:last].to(out.dtype)


def product(out: Tensor, left: Tensor, right: Tensor, accumulate: bool = False, alpha: float = 1.0) -> None:
    """Compute ``out = alpha left @ right (+ out)``; 16-bit operands are summed, and with an fp32 `out` also returned, in fp32."""
    beta = 1 if accumulate else 0
    if not out.is_cuda and left.dtype.itemsize == 2:  # only in the interpreter, whose device is the CPU
        sums = torch.mm(left.float(), right.float()).mul_(alpha)
        out.copy_(sums + out if accumulate else sums)
    elif left.dtype == out.dtype:
        torch.addmm(out, left, right, beta=beta, alpha=alpha, out=out)
    else:
        torch.addmm(out, left, right, out_dtype=out.dtype, beta=beta, alpha=alpha, out=out)


def gradient_scale(factors: Tensor, operand: torch.dtype) -> float:
    """A power of two that brings the largest factor to 2^14 where gradients are held in fp16, which loses what is below 6e-8; else 1."""
    if operand != torch.float16 or not factors.numel() or (factors.is_cuda and torch.cuda.is_current_stream_capturing()):
        return 1.0
    largest = float(torch.nan_to_num(factors[3:6].abs(), nan=0.0, posinf=0.0).amax())
    return 2.0 ** min(120, max(-120, 14 - math.frexp(largest)[1])) if largest > 0 else 1.0


@contextmanager
def exact_reductions(operand: torch.dtype) -> Iterator[None]:
    """Keep the library from adding up parts of a 16-bit product (split-K) in 16 bit, which would round more than once."""
    if operand.itemsize > 2:
        yield
        return
    settings = torch.backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction, settings.allow_fp16_reduced_precision_reduction
    settings.allow_bf16_reduced_precision_reduction = settings.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        settings.allow_bf16_reduced_precision_reduction, settings.allow_fp16_reduced_precision_reduction = before


def allocate_cache(hidden: Tensor, weight: Tensor, rows: int, plan: Plan) -> Cache:
    """Make room for all logits; rows begin at multiples of 64 elements, so that they are read 16 bytes at a time."""
    columns = weight.shape[0]
    half = plan.form == "rows" and plan.itemsize == 2
    full = accumulation_dtype(hidden.dtype, weight.dtype)
    logits = hidden.new_empty((rows, -(-columns // 64) * 64), dtype=hidden.dtype if half else full)
    return Cache(logits, hidden.new_empty((rows, -(-columns // plan.tile[1]) if half else 0), dtype=full))


def spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    """Start and stop of consecutive blocks: 10 in steps of 4 are (0, 4), (4, 8), (8, 10)."""
    for start in range(0, length, max(1, step)):
        yield start, min(start + max(1, step), length)


def rows_of(values: Tensor | float, start: int, stop: int) -> Tensor | float:
    """Take the values of rows start to stop, where there is one for each row."""
    return values[start:stop] if isinstance(values, Tensor) else values
