"""The statistics as custom operators `aer_lightning::*`: opaque to `torch.compile`, with fake implementations and autograd formulas.

What is common to the backends is here: rows that are ignored or have no upstream gradient are left out before any product, targets are
checked, and the statistics of vocabulary shards are gathered. A backend is a module with `logits_partials`, `logits_backward`,
`linear_partials`, `linear_backward`, `allocate_cache`, `plan_cache`, `merge` and `finish` (see `chunked`).
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from aer_lightning.kernels.linear import Factors
from aer_lightning.kernels.partials import RowStatistics, accumulation_dtype
from aer_lightning.kernels.selection import (
    check_row_temperature,
    inverse_temperature,
    kept_rows,
    plain_dispatch,
    selected_rows,
    spread,
    upstream,
)

Pair = tuple[Tensor, Tensor]


def backend_module(name: str) -> ModuleType:
    """Import the module of a backend; Triton is imported only when it is asked for."""
    return importlib.import_module({"chunked": "aer_lightning.kernels.chunked", "triton": "aer_lightning.kernels.fused"}[name])


@torch.library.custom_op("aer_lightning::logits_statistics", mutates_args=())
def logits_statistics(
    logits: Tensor,
    targets: Tensor,
    row_temperature: Tensor | None,
    temperature: float,
    ignore_index: int | None,
    backend: str,
    group: str,
    vocab_start: int,
    vocab_total: int,
    in_place: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probability, entropy, maximum and log-sum ``[N]`` of logits ``[N, V]``. `in_place` concerns the backward pass alone."""
    module = backend_module(backend)
    dtype = accumulation_dtype(logits.dtype)
    with plain_dispatch(logits):
        kept, index = kept_rows(targets, ignore_index, vocab_total)
        if index is not None and index.numel() < targets.numel() // 2:
            logits, targets = logits[index], targets[index]  # a copy, smaller than what it saves
        else:
            index = None
        if row_temperature is not None:
            check_row_temperature(row_temperature)
        inverse = inverse_temperature(row_temperature, temperature, index, dtype)
        statistics = _finish(module, module.logits_partials(logits, targets - vocab_start, inverse), inverse, group)
        return spread(statistics, kept, index)


@logits_statistics.register_fake
def _(
    logits: Tensor,
    targets: Tensor,
    row_temperature: Tensor | None,
    temperature: float,
    ignore_index: int | None,
    backend: str,
    group: str,
    vocab_start: int,
    vocab_total: int,
    in_place: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    row = [logits.new_empty(logits.shape[0], dtype=accumulation_dtype(logits.dtype)) for _ in range(4)]
    return row[0], row[1], row[2], row[3]


@torch.library.custom_op("aer_lightning::logits_gradient_", mutates_args=("gradient",))
def logits_gradient_(
    gradient: Tensor,
    grad_logprob: Tensor,
    grad_entropy: Tensor | None,
    logits: Tensor,
    targets: Tensor,
    row_temperature: Tensor | None,
    temperature: float,
    maximum: Tensor,
    log_sum: Tensor,
    entropy: Tensor,
    backend: str,
    vocab_start: int,
) -> None:
    """Write the gradient of the logits into `gradient`, which may be the logits; rows without upstream gradients become exactly 0."""
    with plain_dispatch(logits):
        inverse = inverse_temperature(row_temperature, temperature, None, maximum.dtype)
        factors = Factors(inverse, maximum, log_sum, entropy, grad_logprob, grad_entropy)
        backend_module(backend).logits_backward(gradient, logits, targets - vocab_start, factors)


@logits_gradient_.register_fake
def _(*args: Any) -> None:
    return None


def _logits_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, targets, row_temperature, temperature, ignore_index, backend, _, vocab_start, _, in_place = inputs
    _, entropy, maximum, log_sum = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(maximum, log_sum)
    ctx.save_for_backward(logits, targets, row_temperature, maximum, log_sum, entropy)
    ctx.options = (temperature, ignore_index, backend, vocab_start, in_place)


def _logits_grad(ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None, *_: Any) -> tuple[Any, ...]:
    logits, targets, row_temperature, maximum, log_sum, entropy = ctx.saved_tensors
    temperature, ignore_index, backend, vocab_start, in_place = ctx.options
    grad_logprob, grad_entropy = upstream(grad_logprob, grad_entropy, targets, ignore_index, maximum)
    gradient = logits.detach() if in_place else torch.empty_like(logits, memory_format=torch.contiguous_format)
    torch.ops.aer_lightning.logits_gradient_(
        gradient,
        grad_logprob,
        grad_entropy,
        logits.detach(),
        targets,
        row_temperature,
        temperature,
        maximum,
        log_sum,
        entropy,
        backend,
        vocab_start,
    )
    return (gradient, *(None,) * 9)


logits_statistics.register_autograd(_logits_grad, setup_context=_logits_setup)


@torch.library.custom_op("aer_lightning::linear_statistics", mutates_args=())
def linear_statistics(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    row_temperature: Tensor | None,
    temperature: float,
    ignore_index: int | None,
    backend: str,
    workspace: int,
    keep_logits: bool,
    group: str,
    vocab_start: int,
    vocab_total: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Statistics ``[N]`` of ``hidden @ weight.T + bias`` as above, then the cache of logits and its tile maxima."""
    module = backend_module(backend)
    dtype = _common_accumulation_dtype(hidden, weight)
    with plain_dispatch(hidden):
        kept, index = kept_rows(targets, ignore_index, vocab_total)
        columns = module.plan_cache(hidden, weight, workspace) if keep_logits else 0
        cache, cache_maximum = module.allocate_cache(hidden, weight, columns)
        if index is not None:
            hidden, targets = hidden[index], targets[index]
        if row_temperature is not None:
            check_row_temperature(row_temperature)
        inverse = inverse_temperature(row_temperature, temperature, index, dtype)
        partials = module.linear_partials(
            hidden, weight, bias, targets - vocab_start, inverse, workspace, cache[: hidden.shape[0]], cache_maximum[: hidden.shape[0]]
        )
        statistics = _finish(module, partials, inverse, group)
        return (*spread(statistics, kept, index), cache, cache_maximum)


@linear_statistics.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    row_temperature: Tensor | None,
    temperature: float,
    ignore_index: int | None,
    backend: str,
    workspace: int,
    keep_logits: bool,
    group: str,
    vocab_start: int,
    vocab_total: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    row = [hidden.new_empty(hidden.shape[0], dtype=_common_accumulation_dtype(hidden, weight)) for _ in range(4)]
    module = backend_module(backend)
    columns = module.plan_cache(hidden, weight, workspace) if keep_logits else 0
    return (row[0], row[1], row[2], row[3], *module.allocate_cache(hidden, weight, columns))


@torch.library.custom_op("aer_lightning::linear_gradients", mutates_args=())
def linear_gradients(
    grad_logprob: Tensor,
    grad_entropy: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    row_temperature: Tensor | None,
    temperature: float,
    ignore_index: int | None,
    maximum: Tensor,
    log_sum: Tensor,
    entropy: Tensor,
    cache: Tensor,
    cache_maximum: Tensor,
    backend: str,
    workspace: int,
    group: str,
    vocab_start: int,
    needs_hidden: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias; an empty tensor where one is not needed."""
    rows = targets.shape[0]
    needs = (needs_hidden, needs_weight, needs_bias and bias is not None)
    empty = hidden.new_empty(0)
    with plain_dispatch(hidden):
        active = (grad_logprob != 0) if grad_entropy is None else (grad_logprob != 0) | (grad_entropy != 0)
        if cache.numel():  # whose rows are those that the forward pass kept
            active = torch.ones_like(active) if ignore_index is None else targets != ignore_index
        index = selected_rows(active)
        inverse = inverse_temperature(row_temperature, temperature, index, maximum.dtype)
        saved = (maximum, log_sum, entropy, grad_logprob, grad_entropy)
        selected, local_targets = hidden, targets - vocab_start
        if index is not None:
            saved = tuple(None if value is None else value[index] for value in saved)  # type: ignore[assignment]
            selected, local_targets = hidden[index], local_targets[index]
        count = selected.shape[0]
        if count == 0:
            zero_hidden = torch.zeros_like(hidden) if needs[0] else empty
            zero_weight = torch.zeros_like(weight) if needs[1] else hidden.new_empty(0)
            return zero_hidden, zero_weight, torch.zeros_like(bias) if needs[2] and bias is not None else hidden.new_empty(0)
        grad_hidden, grad_weight, grad_bias = backend_module(backend).linear_backward(
            selected,
            weight,
            bias,
            local_targets,
            Factors(inverse, *saved),
            cache[:count],
            cache_maximum[:count],
            workspace,
            needs,
        )
        if grad_hidden is not None:
            if group:
                dist.all_reduce(grad_hidden, group=_process_group(group))  # each rank has the part of its slice of V
            grad_hidden = grad_hidden.to(hidden.dtype)
            if index is not None:
                grad_hidden = hidden.new_zeros(rows, hidden.shape[1]).index_copy_(0, index, grad_hidden)
    return (
        grad_hidden if needs[0] else empty,
        grad_weight if needs[1] else hidden.new_empty(0),
        grad_bias if needs[2] else hidden.new_empty(0),
    )


@linear_gradients.register_fake
def _(
    grad_logprob: Tensor,
    grad_entropy: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *args: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    needs_hidden, needs_weight, needs_bias = args[-3:]
    empty = [hidden.new_empty(0) for _ in range(3)]
    return (
        hidden.new_empty(hidden.shape) if needs_hidden else empty[0],
        weight.new_empty(weight.shape) if needs_weight else empty[1],
        bias.new_empty(bias.shape) if needs_bias and bias is not None else empty[2],
    )


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, targets, row_temperature, temperature, ignore_index, backend, workspace, _, group, vocab_start, _ = inputs
    _, entropy, maximum, log_sum, cache, cache_maximum = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(maximum, log_sum, cache, cache_maximum)
    # The weight is saved as it came, so that FSDP2 can free and refill its storage between the passes.
    ctx.save_for_backward(hidden, weight, bias, targets, row_temperature, maximum, log_sum, entropy, cache, cache_maximum)
    ctx.options = (temperature, ignore_index, backend, workspace, group, vocab_start)


def _linear_grad(ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None, *_: Any) -> tuple[Any, ...]:
    hidden, weight, bias, targets, row_temperature, maximum, log_sum, entropy, cache, cache_maximum = ctx.saved_tensors
    temperature, ignore_index, backend, workspace, group, vocab_start = ctx.options
    needs = ctx.needs_input_grad[:3]
    grad_logprob, grad_entropy = upstream(grad_logprob, grad_entropy, targets, ignore_index, maximum)
    gradients = torch.ops.aer_lightning.linear_gradients(
        grad_logprob,
        grad_entropy,
        hidden.detach(),
        weight.detach(),
        None if bias is None else bias.detach(),
        targets,
        row_temperature,
        temperature,
        ignore_index,
        maximum,
        log_sum,
        entropy,
        cache,
        cache_maximum,
        backend,
        workspace,
        group,
        vocab_start,
        *needs,
    )
    return (*(gradient if need else None for gradient, need in zip(gradients, needs, strict=True)), *(None,) * 10)


linear_statistics.register_autograd(_linear_grad, setup_context=_linear_setup)


def _finish(module: ModuleType, partials: Tensor, inverse: Tensor | float, group: str) -> RowStatistics:
    """Merge blocks, and shards with one all-gather of the four statistics."""
    if group:
        process_group = _process_group(group)
        local = module.merge(partials, inverse)
        gathered = local.new_empty((dist.get_world_size(process_group) * 4, local.shape[1]))
        dist.all_gather_into_tensor(gathered, local.contiguous(), group=process_group)
        partials = gathered.view(-1, 4, local.shape[1]).transpose(0, 1).contiguous()
    return module.finish(partials, inverse)


def _process_group(name: str) -> dist.ProcessGroup:
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type]


def _common_accumulation_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    return accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype))
