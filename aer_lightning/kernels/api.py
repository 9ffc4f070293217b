"""The two entry points: arguments are checked, a backend is chosen, the operator is called."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from aer_lightning.errors import ConfigError
from aer_lightning.kernels import operators, reference, small
from aer_lightning.kernels.options import Options
from aer_lightning.kernels.planning import Plan
from aer_lightning.kernels.selection import check_row_temperature, kept_rows

Backend = Literal["auto", "reference", "torch", "triton"]
BACKENDS = ("auto", "reference", "torch", "triton")
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True)
class VocabularyShard:
    """Where this rank's slice of a vocabulary-parallel head lies: columns `start` to `start` + V of `total`, over the ranks of `group`."""

    group: dist.ProcessGroup
    start: int
    total: int

    @classmethod
    def of(cls, group: dist.ProcessGroup, columns: int) -> VocabularyShard:
        """For a slice of `columns` rows of the head, the slices lying in the order of the ranks (they may differ in size). Communicates."""
        sizes: list[int] = [0] * dist.get_world_size(group)
        dist.all_gather_object(sizes, columns, group=group)
        return cls(group, sum(sizes[: dist.get_rank(group)]), sum(sizes))


def logits_token_stats(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | float = 1.0,
    backend: Backend = "auto",
    *,
    ignore_index: int | None = None,
    shard: VocabularyShard | None = None,
    inplace_backward: bool = False,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    logprob_only: bool = False,
    entropy_only: bool = False,
    entropy_top_share: float | None = None,
    entropy_top_p: float | None = None,
    return_lse: bool = False,
) -> tuple[Tensor, ...]:
    """Log-probability of each target and entropy of each row, from logits; both differentiable (once).

    Args:
        logits: ``[N, V]``; bf16, fp16, fp32 or fp64.
        targets: ``[N]`` integer ids in [0, V).
        temperature: all results are those of ``softmax(logits / temperature)``; a float or one per row ``[N]``, above 0, without gradient.
        backend: "triton" on CUDA and "torch" elsewhere for "auto"; "reference" is plain torch and holds several ``[N, V]`` tensors.
        ignore_index: rows with this target give 0 for all results, and exactly 0 as gradients.
        shard: the logits are this rank's slice of a vocabulary-parallel head (targets count in the whole vocabulary, equal on all ranks).
        inplace_backward: write the gradient over the logits, which nothing may read after the forward pass. Not under `torch.compile`.
        softcap: logits become ``softcap * tanh(logits / softcap)`` before the temperature (Gemma 2).
        logit_scale: factor on the logits before anything else (Cohere multiplies, Granite divides by its inverse).
        logprob_only: compute no entropy; None stands in its place.
        entropy_only: None in place of the log-probability; `targets` serve `ignore_index` alone.
        entropy_top_share: entropy of the distribution cut down to the ceil(share V) most probable tokens and renormalised (the clamped
            entropy of AEnt, arXiv 2509.03493). Tokens of equal logit at the edge are all in.
        entropy_top_p: the same for the fewest tokens that hold this probability (the mask of SIREN).
        return_lse: a third result, ln sum exp of the scaled, capped and tempered logits, for a z-loss ``lse.square().mean()``.

    Returns:
        logprob ``[N]`` and entropy ``[N]`` (and lse ``[N]``), in nat, fp32 (fp64 for fp64 logits). A row without a finite logit, or with
        a NaN, gives NaN.

    Raises:
        ConfigError: a shape, dtype, temperature, backend or option that cannot be, named in the message.
        DataError: a target outside the vocabulary, or a temperature of a row that is not above 0.
    """
    _check_matrix("logits", logits)
    _check_targets(targets, logits, "logits")
    chosen = _choose(backend, logits)
    options, per_row = _options(
        chosen, logits, temperature, ignore_index, shard, softcap, logit_scale, logprob_only, entropy_only, entropy_top_share,
        entropy_top_p, return_lse,
    )  # fmt: skip
    targets = _no_targets(targets, ignore_index) if entropy_only else targets
    if chosen == "reference":
        _check_values(targets, ignore_index, logits.shape[1], per_row)
        results = reference.logits_token_stats(logits, targets, options.temperature if per_row is None else per_row, ignore_index, options)
    else:
        if inplace_backward:
            _check_in_place(logits)
        start, total, group = _placement(shard, logits.shape[1])
        options = replace(options, start=start, total=total, group=group, in_place=inplace_backward)
        traced = _traced(logits)
        apply = operators.logits_statistics if traced else operators.LogitsStatistics.apply
        results = apply(logits, targets, per_row, *(options.encode() if traced else (options,)))[:3]
    return _named(results, logprob_only, entropy_only, return_lse)


def linear_token_stats(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    temperature: Tensor | float = 1.0,
    backend: Backend = "auto",
    memory_mb: float | Literal["auto"] = "auto",
    *,
    ignore_index: int | None = None,
    shard: VocabularyShard | None = None,
    weight_cast: Tensor | None = None,
    plan: Plan | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    logprob_only: bool = False,
    entropy_only: bool = False,
    entropy_top_share: float | None = None,
    entropy_top_p: float | None = None,
    return_lse: bool = False,
) -> tuple[Tensor, ...]:
    """Log-probability and entropy of ``softmax((hidden @ weight.T + bias) / temperature)``, without ever holding the logits ``[N, V]``.

    Products are taken in the dtype of `hidden` (under autocast: its dtype) with fp32 sums: a weight of another dtype, such as an fp32
    master weight, is cast (a bf16 `hidden` rounds it) slice by slice, and its gradient is the fp32 sum, unrounded; for fp32 products give
    ``hidden.float()``. Differentiable once, in all results, with respect to `hidden`, `weight` and `bias`; only the gradients that are
    needed are computed, and rows without upstream gradients cost nothing. A second backward pass (``retain_graph=True``) gives the same,
    and computes logits that were kept again, because the first wrote over them.
    In a plain ``backward()`` the gradient is added straight into an fp32 ``weight.grad`` that is there already.

    Args:
        hidden: ``[N, D]``; N may be 0.
        weight: ``[V, D]``, a plain tensor: gather a sharded parameter first (FSDP2: within the forward of the module that owns it).
        targets: ``[N]`` integer ids in [0, V).
        bias: ``[V]`` or None; added to the fp32 sums.
        temperature: a float or one per row ``[N]``, above 0, without gradient.
        backend: as in `logits_token_stats`.
        memory_mb: MiB that may be held beside inputs, results and gradients, a hard bound; see `aer_lightning.kernels.plan`. If it has room
            for all logits in 16 bit they are kept for the backward pass, otherwise they are computed again.
        ignore_index: rows with this target are left out of all work: results 0, gradients exactly 0.
        shard: `weight` (and `bias`) is this rank's slice of V; `hidden` and `targets` are equal on all ranks, and so are the results.
        weight_cast: ``weight.to(hidden.dtype)``, if the caller has it: several calls of one optimizer step can share it.
        plan: blocks and form, instead of those that `memory_mb` leads to.
        softcap: as in `logits_token_stats`, and so are the options that follow.
        logit_scale: factor on ``hidden @ weight.T + bias``.
        logprob_only: no entropy.
        entropy_only: no log-probability.
        entropy_top_share: entropy over this share of the vocabulary.
        entropy_top_p: entropy over this part of the probability.
        return_lse: a third result, the log-sum-exp.

    Returns:
        logprob ``[N]`` and entropy ``[N]`` (and lse ``[N]``), as in `logits_token_stats`.

    Raises:
        ConfigError: a shape, dtype, temperature, backend, budget or option that cannot be, named in the message.
        DataError: a target outside the vocabulary, or a temperature of a row that is not above 0.
    """
    _check_linear(hidden, weight, bias, weight_cast)
    _check_targets(targets, hidden, "hidden")
    if not (memory_mb == "auto" or (isinstance(memory_mb, int | float) and memory_mb > 0)):
        raise ConfigError(f"memory_mb: {memory_mb} is not above 0 (MiB), or auto")
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden = hidden if hidden.dtype == torch.float64 else hidden.to(dtype)
        bias = bias if bias is None or bias.dtype == torch.float64 else bias.to(dtype)
    if weight_cast is not None and weight_cast.dtype != hidden.dtype:
        raise ConfigError(f"weight_cast: dtype {weight_cast.dtype} is not that of hidden, {hidden.dtype}")
    chosen = _choose(backend, hidden)
    options, per_row = _options(
        chosen, hidden, temperature, ignore_index, shard, softcap, logit_scale, logprob_only, entropy_only, entropy_top_share,
        entropy_top_p, return_lse,
    )  # fmt: skip
    targets = _no_targets(targets, ignore_index) if entropy_only else targets
    if chosen == "reference":
        _check_values(targets, ignore_index, weight.shape[0], per_row)
        row_temperature = options.temperature if per_row is None else per_row
        results = reference.linear_token_stats(hidden, weight, targets, bias, row_temperature, ignore_index, options)
    else:
        if chosen == "torch" and plan is None and shard is None and per_row is None:
            found = _small(hidden, weight, bias, targets, memory_mb, options)
            if found is not None:
                return found
        start, total, group = _placement(shard, weight.shape[0])
        options = replace(options, start=start, total=total, group=group, memory=memory_mb, plan=plan)
        if torch.compiler.is_compiling():
            options = replace(options, plan=None)  # which is made where sizes are numbers, and without a cache
        elif plan is None:
            differentiated = torch.is_grad_enabled() and any(
                tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)
            )
            options = replace(options, plan=operators.make_plan(hidden, weight, options, bias is not None, True, differentiated))
        elif (plan.tokens, plan.width, plan.vocabulary) != (max(1, hidden.shape[0]), *weight.shape[::-1]):
            raise ConfigError(f"plan: is for {plan.tokens} x {plan.width} x {plan.vocabulary}, hidden and weight are others")
        traced = _traced(hidden)
        apply = operators.linear_statistics if traced else operators.LinearStatistics.apply
        results = apply(hidden, weight, bias, targets, per_row, weight_cast, *(options.encode() if traced else (options,)))[:3]
    return _named(results, logprob_only, entropy_only, return_lse)


def _small(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, memory_mb: float | str, options: Options
) -> tuple[Tensor, Tensor] | None:
    """Results of the way for small vocabularies, or None where that is not exact or not faster."""
    elements, columns = hidden.shape[0] * weight.shape[0], weight.shape[0]
    budget = (64 if isinstance(memory_mb, str) else memory_mb) * 2**20
    if columns > small.COLUMNS or elements > small.ELEMENTS or elements * small.BUFFERS * hidden.element_size() > budget:
        return None
    one_dtype = hidden.dtype == weight.dtype and (bias is None or bias.dtype == hidden.dtype) and hidden.dtype.itemsize >= 4
    if not one_dtype or not options.usual or hidden.device.type != "cpu" or _traced(hidden):
        return None
    if kept_rows(targets, options.ignore_index, columns)[0] is not None:
        return None
    logits = hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)
    results = small.SmallStatistics.apply(logits, targets, options.scale / options.temperature)
    return results if bool(results[1].isfinite().all()) else None


def _named(results: tuple[Tensor, ...], logprob_only: bool, entropy_only: bool, return_lse: bool) -> tuple[Tensor, ...]:
    logprob, entropy, lse = results
    first, second = None if entropy_only else logprob, None if logprob_only else entropy
    return (first, second, lse) if return_lse else (first, second)  # type: ignore[return-value]


def _options(
    backend: str, rows: Tensor, temperature: Tensor | float, ignore_index: int | None, shard: VocabularyShard | None, softcap: float | None,
    logit_scale: float, logprob_only: bool, entropy_only: bool, top_share: float | None, top_p: float | None, lse: bool,
) -> tuple[Options, Tensor | None]:  # fmt: skip
    """Check what is common to both entry points; the options, and a temperature that is one per row."""
    scalar, per_row = _check_temperature(temperature, rows)
    if softcap is not None and not 0 < softcap < math.inf:
        raise ConfigError(f"softcap: {softcap} is not above 0 and finite; None for none")
    if not 0 < logit_scale < math.inf:
        raise ConfigError(f"logit_scale: {logit_scale} is not above 0 and finite")
    if logprob_only and entropy_only:
        raise ConfigError("entropy_only: contradicts logprob_only; leave both False for both results")
    for name, value in (("entropy_top_share", top_share), ("entropy_top_p", top_p)):
        if value is not None and not 0 < value <= 1:
            raise ConfigError(f"{name}: {value} is not in (0, 1]")
        if value is not None and logprob_only:
            raise ConfigError(f"{name}: there is no entropy with logprob_only")
        if value is not None and value < 1 and shard is not None:
            raise ConfigError(f"{name}: the top of a row cannot be found in a shard of the vocabulary; gather the head")
    if top_share is not None and top_p is not None:
        raise ConfigError("entropy_top_p: contradicts entropy_top_share; give one of them")
    if backend == "reference" and shard is not None:
        raise ConfigError("shard: the reference backend holds the whole vocabulary; choose torch or triton")
    options = Options(
        backend, ignore_index=ignore_index, temperature=scalar, softcap=softcap or 0.0, scale=float(logit_scale), entropy=not logprob_only,
        lse=lse, share=1.0 if top_share is None else float(top_share), mass=1.0 if top_p is None else float(top_p),
    )  # fmt: skip
    return options, per_row


def _no_targets(targets: Tensor, ignore_index: int | None) -> Tensor:
    return torch.zeros_like(targets) if ignore_index is None else targets.where(targets == ignore_index, 0 if ignore_index != 0 else 1)


def _choose(backend: str, tensor: Tensor) -> str:
    if backend == "auto":
        return "triton" if tensor.is_cuda and tensor.dtype != torch.float64 and find_spec("triton") else "torch"
    if backend not in BACKENDS:
        hint = " (chunked is now called torch)" if backend == "chunked" else ""
        raise ConfigError(f"backend: {backend!r} is not one of {', '.join(BACKENDS)}{hint}")
    if backend == "triton":
        if find_spec("triton") is None:
            raise ConfigError("backend: triton is not installed; install aer-lightning[triton] or choose torch")
        if tensor.is_cuda and tensor.dtype == torch.float64:
            raise ConfigError("backend: triton has no fp64 kernels; choose torch or auto")
        if not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
            raise ConfigError(
                f"backend: triton needs CUDA tensors, got {tensor.device} (or TRITON_INTERPRET=1, for tests); choose torch or auto"
            )
    return backend


def _check_matrix(name: str, tensor: Tensor) -> None:
    if type(tensor).__name__ == "DTensor":
        raise ConfigError(f"{name}: is a DTensor; gather it first (full_tensor(), or within the forward of the module that owns it)")
    if tensor.ndim != 2 or tensor.shape[1] == 0 or (name == "weight" and tensor.shape[0] == 0):
        raise ConfigError(f"{name}: shape {_shape(tensor)}; expected two dimensions, not empty (flatten batch and time first)")
    if tensor.dtype not in DTYPES:
        raise ConfigError(f"{name}: dtype {tensor.dtype} is not supported; one of {', '.join(str(dtype) for dtype in DTYPES)}")


def _check_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None, weight_cast: Tensor | None) -> None:
    _check_matrix("hidden", hidden)
    _check_matrix("weight", weight)
    if hidden.shape[1] != weight.shape[1]:
        raise ConfigError(f"weight: shape {_shape(weight)} does not fit hidden {_shape(hidden)}; expected [V, {hidden.shape[1]}]")
    if weight.device != hidden.device:
        raise ConfigError(f"weight: is on {weight.device}, hidden on {hidden.device}")
    if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype not in DTYPES or bias.device != hidden.device):
        raise ConfigError(
            f"bias: {bias.dtype} {_shape(bias)} on {bias.device}; expected a float tensor [{weight.shape[0]}] on {hidden.device}, or None"
        )
    if weight_cast is not None and (weight_cast.shape != weight.shape or weight_cast.device != weight.device or weight_cast.requires_grad):
        raise ConfigError("weight_cast: has another shape or device than weight, or requires a gradient; give weight.detach().to(dtype)")


def _check_targets(targets: Tensor, rows: Tensor, name: str) -> None:
    if targets.shape != rows.shape[:1]:
        raise ConfigError(f"targets: shape {_shape(targets)} does not fit {name} {_shape(rows)}; expected [{rows.shape[0]}]")
    if targets.dtype not in (torch.int64, torch.int32):
        raise ConfigError(f"targets: dtype {targets.dtype} is not supported; int64 or int32")
    if targets.device != rows.device:
        raise ConfigError(f"targets: are on {targets.device}, {name} on {rows.device}")


def _check_temperature(temperature: Tensor | float, rows: Tensor) -> tuple[float, Tensor | None]:
    if isinstance(temperature, Tensor):
        if temperature.shape != rows.shape[:1] or not temperature.is_floating_point() or temperature.device != rows.device:
            raise ConfigError(
                f"temperature: {temperature.dtype} {_shape(temperature)} on {temperature.device}; expected a float, or a float tensor "
                f"[{rows.shape[0]}] on {rows.device}"
            )
        if temperature.requires_grad:
            raise ConfigError("temperature: has requires_grad set, but no gradient is computed for it; detach it")
        return 1.0, temperature
    if not 0 < temperature < math.inf:
        raise ConfigError(f"temperature: {temperature} is not above 0 and finite")
    return float(temperature), None


def _check_values(targets: Tensor, ignore_index: int | None, vocabulary: int, row_temperature: Tensor | None) -> None:
    check_row_temperature(row_temperature, kept_rows(targets, ignore_index, vocabulary)[0])


def _check_in_place(logits: Tensor) -> None:
    if torch.compiler.is_compiling():
        raise ConfigError("inplace_backward: not possible inside torch.compile; leave it False there")
    if logits.requires_grad and logits.is_leaf:
        raise ConfigError("inplace_backward: the logits are a leaf, whose values would become their own gradient; leave it False")
    if any(stride == 0 and size > 1 for stride, size in zip(logits.stride(), logits.shape, strict=True)):
        raise ConfigError("inplace_backward: the logits are expanded, so that rows share their memory; leave it False")


def _traced(tensor: Tensor) -> bool:
    """Whether there are shapes only: under compilation and on fake tensors the operator stands for what it would compute."""
    return torch.compiler.is_compiling() or isinstance(tensor, FakeTensor)


def _placement(shard: VocabularyShard | None, columns: int) -> tuple[int, int, str]:
    if shard is None:
        return 0, 0, ""
    if shard.start < 0 or shard.start + columns > shard.total:
        raise ConfigError(f"shard: columns {shard.start} to {shard.start + columns} are not within the vocabulary of {shard.total}")
    return shard.start, shard.total, shard.group.group_name


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
