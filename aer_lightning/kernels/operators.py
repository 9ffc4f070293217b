"""The statistics as nodes of autograd, and under `torch.compile` as custom operators `aer_lightning::*` that are opaque to it.

What is common to the backends is here: rows that are ignored or have no upstream gradient are left out before any product, targets are
checked, and the statistics of vocabulary shards are gathered. A function's last arguments are its `Options`, or for an operator their
encoding.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from aer_lightning.kernels import walk
from aer_lightning.kernels.options import Options
from aer_lightning.kernels.planning import MIB, Plan, automatic_budget, device_of, plan
from aer_lightning.kernels.selection import check_row_temperature, kept_rows, selected_rows, spread, upstream
from aer_lightning.kernels.statistics import accumulation_dtype, finish, gradient_factors, product_dtype


def backend(name: str) -> Any:
    """Import the module of a backend; Triton is imported only when it is asked for."""
    return importlib.import_module(f"aer_lightning.kernels.{name}_backend")


def _operator(name: str, function: Callable[..., Any], arguments: str, results: str, fake: Callable[..., Any]) -> Any:
    schema = f"({arguments}, str options, int[] integers, float[] numbers) -> {results}"
    mutated = re.findall(r"!\)\??\s(\w+)", arguments)
    made = torch.library.custom_op(f"aer_lightning::{name}", function, mutates_args=mutated, schema=schema)
    made.register_fake(fake)
    return made


def _node(forward: Callable[..., tuple[Tensor, ...]], setup: Callable[..., None], backward: Callable[..., Any]) -> Any:
    """The same without the dispatch of an operator, which costs more than the work of a tiny vocabulary."""

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
            output = forward(*inputs)
            setup(ctx, inputs, output)
            return output

    Node.backward = staticmethod(backward)  # type: ignore[assignment]
    return Node


def _decoded(options: tuple[Any, ...]) -> Options:
    return options[0] if isinstance(options[0], Options) else Options.decode(*options)


def _logits_forward(logits: Tensor, targets: Tensor, row_temperature: Tensor | None, *options: Any) -> tuple[Tensor, ...]:
    """Log-probability, entropy and log-sum-exp ``[N]`` of logits ``[N, V]``, and what the backward pass needs ``[3 or 5, N]``."""
    chosen = _decoded(options)
    with torch.autocast(logits.device.type, enabled=False):
        kept, index = kept_rows(targets, chosen.ignore_index, chosen.total or logits.shape[1])
        check_row_temperature(row_temperature, kept)
        if index is not None and index.numel() < targets.numel() // 2:
            logits, targets = logits[index], targets[index]  # a copy, smaller than what it saves
        else:
            index = None
        inverse = chosen.inverse(row_temperature, index, kept, accumulation_dtype(logits.dtype))
        statistics = backend(chosen.backend).logits_statistics
        merged, tops = statistics(logits, targets - chosen.start, inverse, chosen.squash, chosen.entropy, chosen.top)
        return _results(merged, tops, inverse, chosen, kept, index)


def _logits_gradient(gradient: Tensor, logits: Tensor, targets: Tensor, factors: Tensor, *options: Any) -> None:
    """Write the gradient of the logits into `gradient`, which may be the logits; rows without upstream gradients become exactly 0."""
    chosen = _decoded(options)
    with torch.autocast(logits.device.type, enabled=False):
        backend(chosen.backend).logits_gradient(gradient, logits, targets - chosen.start, factors, chosen.squash)


def _logits_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, targets, row_temperature, *ctx.options = inputs
    logprob, _, _, saved = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(saved)
    ctx.save_for_backward(logits, targets, row_temperature, logprob, saved)


@once_differentiable
def _logits_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    logits, targets, row_temperature, logprob, saved = ctx.saved_tensors
    options, direct = _decoded(ctx.options), len(ctx.options) == 1
    kept = None if options.ignore_index is None else targets != options.ignore_index
    inverse = options.inverse(row_temperature, None, kept, saved.dtype)
    factors = gradient_factors(logprob, saved, inverse, upstream(grads[:3], kept), options.squash)
    gradient = logits.detach() if options.in_place else torch.empty_like(logits, memory_format=torch.contiguous_format)
    (_logits_gradient if direct else logits_gradient_)(gradient, logits.detach(), targets, factors, *ctx.options)
    if options.in_place and direct:  # a kernel writes without torch's knowledge; a second backward pass has to be refused
        torch.autograd.graph.increment_version(logits)
    return gradient, *(None,) * (2 + len(ctx.options))


logits_statistics = _operator(
    "logits_statistics", _logits_forward, "Tensor logits, Tensor targets, Tensor? row_temperature", "(Tensor, Tensor, Tensor, Tensor)",
    lambda logits, _targets, _temperature, *options: _fake_results(logits, accumulation_dtype(logits.dtype), _decoded(options)),
)  # fmt: skip
logits_gradient_ = _operator(
    "logits_gradient_", _logits_gradient, "Tensor(a!) gradient, Tensor logits, Tensor targets, Tensor factors", "()", lambda *_: None
)
logits_statistics.register_autograd(_logits_backward, setup_context=_logits_setup)
LogitsStatistics = _node(_logits_forward, _logits_setup, _logits_backward)


def _linear_forward(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, row_temperature: Tensor | None, weight_cast: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Statistics of ``hidden @ weight.T + bias`` as above, then the cache of logits and its tile maxima."""
    chosen = _decoded(options)
    with torch.autocast(hidden.device.type, enabled=False):
        kept, index = kept_rows(targets, chosen.ignore_index, chosen.total or weight.shape[0])
        check_row_temperature(row_temperature, kept)
        head = _head(hidden, weight, bias, targets - chosen.start, row_temperature, weight_cast, chosen, index, kept)
        cache, maximum = _allocate(hidden, weight, head.rows, chosen)
        keeps = walk.Cache(cache[:, : weight.shape[0]], maximum) if head.plan.cached else None
        engine = backend(chosen.backend).engine(head, chosen.entropy, backward=False)
        merged, tops = walk.forward(engine, head, keeps, chosen.top)
        return (*_results(merged, tops, head.inverse, chosen, kept, index), cache, maximum)


def _linear_fake(hidden: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, ...]:
    chosen = _decoded(others[4:])
    results = _fake_results(hidden, accumulation_dtype(hidden.dtype, weight.dtype), chosen)
    return (*results, *_allocate(hidden, weight, hidden.shape[0], chosen))


def _linear_gradients(
    grad_hidden: Tensor | None, grad_weight: Tensor | None, grad_bias: Tensor | None, cache: Tensor | None, maximum: Tensor | None,
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, row_temperature: Tensor | None, weight_cast: Tensor | None,
    logprob: Tensor, saved: Tensor, grad_logprob: Tensor | None, grad_entropy: Tensor | None, grad_lse: Tensor | None, add: bool,
    *options: Any,
) -> None:  # fmt: skip
    """Write the gradients that there is a tensor for; `add` adds that of the weight. The gradient of the logits replaces the cache."""
    chosen = _decoded(options)
    with torch.autocast(hidden.device.type, enabled=False):
        kept = None if chosen.ignore_index is None else targets != chosen.ignore_index
        grads = upstream((grad_logprob, grad_entropy, grad_lse), kept)
        cached = chosen.plan is not None and chosen.plan.cached
        index = None
        if not cached:
            active = torch.zeros_like(targets, dtype=torch.bool)
            for gradient in grads:
                active = active if gradient is None else active | (gradient != 0)
            index = selected_rows(active)
        elif kept is not None:
            index = selected_rows(kept)  # its rows are those that the forward pass kept
        head = _head(hidden, weight, bias, targets - chosen.start, row_temperature, weight_cast, chosen, index, kept)
        if head.rows < hidden.shape[0] or head.rows == 0:
            for result in (grad_hidden, None if add or head.rows else grad_weight, None if head.rows else grad_bias):
                if result is not None:
                    result.zero_()
        if head.rows == 0:
            return
        if index is not None:
            logprob, saved = logprob[index], saved[:, index]
            grads = tuple(None if gradient is None else gradient[index] for gradient in grads)  # type: ignore[assignment]
        factors = gradient_factors(logprob, saved, head.inverse, grads, chosen.squash)
        engine = backend(chosen.backend).engine
        if cached and cache is None:  # a second backward pass: the first wrote over the logits
            cache, maximum = _allocate(hidden, weight, head.rows, chosen)
            walk.forward(engine(head, False, backward=False), head, walk.Cache(cache[:, : weight.shape[0]], maximum), None)
        keeps = None if cache is None or maximum is None else walk.Cache(cache[:, : weight.shape[0]], maximum)
        target = grad_hidden
        if grad_hidden is not None and chosen.group:  # each rank has the part of its slice of V; the sum is rounded, not its parts
            target = torch.zeros_like(grad_hidden, dtype=factors.dtype)
        walk.backward(engine(head, chosen.entropy, backward=True), head, keeps, factors, (target, grad_weight, grad_bias), add)
        if grad_hidden is not None and target is not None and chosen.group:
            dist.all_reduce(target, group=_process_group(chosen.group))
            grad_hidden.copy_(target)


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, targets, row_temperature, weight_cast = inputs[:6]
    ctx.options = inputs[6:]
    logprob, _, _, saved, cache, maximum = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(saved, cache, maximum)
    # The weight is saved as it came, so that FSDP2 can free and refill its storage between the passes. The cache is not: the first
    # backward pass writes over it and lets it go; a second one (retain_graph) computes the logits again.
    ctx.save_for_backward(*tensors, targets, row_temperature, weight_cast, logprob, saved)
    chosen = _decoded(ctx.options)
    ctx.cache = (cache, maximum) if chosen.plan is not None and chosen.plan.cached else None


@once_differentiable
def _linear_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    hidden, weight, bias, targets, row_temperature, weight_cast, logprob, saved = ctx.saved_tensors
    kept, ctx.cache = ctx.cache, None
    add = ctx.needs_input_grad[1] and _adds_to_grad(weight)
    results: list[Tensor | None] = [
        torch.empty_like(value, memory_format=torch.contiguous_format) if need and value is not None else None
        for value, need in zip((hidden, None if add else weight, bias), ctx.needs_input_grad, strict=False)
    ]
    inputs = [None if value is None else value.detach() for value in (hidden, weight, bias)]
    (_linear_gradients if len(ctx.options) == 1 else linear_gradients_)(
        results[0], weight.grad if add else results[1], results[2], *(kept or (None, None)), *inputs, targets, row_temperature, weight_cast,
        logprob.detach(), saved, *grads[:3], add, *ctx.options,
    )  # fmt: skip
    return (*results, *(None,) * (3 + len(ctx.options)))


INPUTS = "Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor? row_temperature, Tensor? weight_cast"
linear_statistics = _operator(
    "linear_statistics", _linear_forward, INPUTS, "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)", _linear_fake
)
linear_gradients_ = _operator(
    "linear_gradients_", _linear_gradients,
    "Tensor(a!)? grad_hidden, Tensor(b!)? grad_weight, Tensor(c!)? grad_bias, Tensor(d!)? cache, Tensor? maximum, "
    f"{INPUTS}, Tensor logprob, Tensor saved, Tensor? grad_logprob, Tensor? grad_entropy, Tensor? grad_lse, bool add",
    "()", lambda *_: None,
)  # fmt: skip
linear_statistics.register_autograd(_linear_backward, setup_context=_linear_setup)
LinearStatistics = _node(_linear_forward, _linear_setup, _linear_backward)


def _adds_to_grad(weight: Tensor) -> bool:
    """Whether the gradient may be added to an fp32 ``.grad`` that is there, instead of being made as a tensor that autograd adds to it.

    Only in a plain `backward()`, and only where nothing waits to see the gradient itself.
    """
    if torch.compiler.is_compiling() or not weight.is_leaf or weight.dtype != torch.float32 or weight.grad is None:
        return False
    gradient = weight.grad
    if gradient.dtype != torch.float32 or gradient.shape != weight.shape or not gradient.is_contiguous() or type(gradient) is not Tensor:
        return False
    if weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None) or torch.is_grad_enabled():
        return False
    try:
        return bool(torch._C._will_engine_execute_node(torch.autograd.graph.get_gradient_edge(weight).node))
    except RuntimeError:  # torch.autograd.grad
        return False


def _head(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, row_temperature: Tensor | None, weight_cast: Tensor | None,
    options: Options, index: Tensor | None, kept: Tensor | None,
) -> walk.Head:  # fmt: skip
    inverse = options.inverse(row_temperature, index, kept, accumulation_dtype(hidden.dtype, weight.dtype))
    chosen = options.plan or make_plan(hidden, weight, options, bias is not None, cache=False)
    selected = targets if index is None else targets[index]
    return walk.Head(hidden, weight, bias, selected, inverse, options.squash, chosen, index, weight_cast)


def make_plan(hidden: Tensor, weight: Tensor, options: Options, bias: bool, cache: bool, gradient: bool = True) -> Plan:
    """The plan of a call."""
    size = hidden.element_size()
    aligned = options.backend != "triton" or all(  # which only its tiles ask for, and tensors without data have none
        matrix.dtype == hidden.dtype and matrix.stride(1) == 1 and matrix.stride(0) >= matrix.shape[1] and matrix.stride(0) * size % 16 == 0
        and matrix.data_ptr() % 16 == 0
        for matrix in (hidden, weight)
    )  # fmt: skip
    described = device_of(hidden.device, options.backend == "triton")
    memory = automatic_budget(hidden.device, described) / MIB if isinstance(options.memory, str) else options.memory
    return plan(
        hidden.shape[0], hidden.shape[1], weight.shape[0], product_dtype(hidden.dtype, weight.dtype), memory, described,
        weight_dtype=weight.dtype, gradient=gradient, cache=cache, top=bool(options.top), plain=not options.squash and not options.top,
        bias=bias, aligned=aligned, form="torch" if options.backend == "torch" else "auto",
    )  # fmt: skip


def _allocate(hidden: Tensor, weight: Tensor, rows: int, options: Options) -> tuple[Tensor, Tensor]:
    if options.plan is None or not options.plan.cached:
        return hidden.new_empty(0), hidden.new_empty(0)
    cache = walk.allocate_cache(hidden, weight, rows, options.plan)
    return cache.logits, cache.maximum


def _results(
    merged: Tensor, tops: Tensor, inverse: Tensor | float, options: Options, kept: Tensor | None, index: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Merge shards with one all-gather, finish, and put the rows back in their places; those that were left out are 0."""
    partials = merged.unsqueeze(1)
    if options.group:
        group = _process_group(options.group)
        gathered = merged.new_empty((dist.get_world_size(group) * 4, merged.shape[1]))
        dist.all_gather_into_tensor(gathered, merged.contiguous(), group=group)
        partials = gathered.view(-1, 4, merged.shape[1]).transpose(0, 1)
    logprob, entropy, maximum, log_sum = finish(partials, inverse)
    saved = [entropy, maximum, log_sum]
    if options.top:
        threshold, rest, weighted = tops
        of_top = rest.log1p()
        entropy = of_top - weighted / (1 + rest)
        saved = [entropy, maximum, log_sum, threshold, log_sum - of_top]
    wanted = [logprob, entropy if options.entropy else None, maximum * inverse + log_sum if options.lse else None, torch.stack(saved)]
    placed = [logprob.new_empty(0) if value is None else spread(value, kept, index).clone() for value in wanted]
    return placed[0], placed[1], placed[2], placed[3]


def _fake_results(rows: Tensor, dtype: torch.dtype, options: Options) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = rows.shape[0]
    sizes = [(n,), (n if options.entropy else 0,), (n if options.lse else 0,), (5 if options.top else 3, n)]
    made = [rows.new_empty(size, dtype=dtype) for size in sizes]
    return made[0], made[1], made[2], made[3]


def _process_group(name: str) -> dist.ProcessGroup:
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type]
