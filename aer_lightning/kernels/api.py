"""The two entry points: arguments are checked, a backend is chosen, the operator is called."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from aer_lightning.errors import ConfigError
from aer_lightning.kernels import direct, operators, reference, selection

Backend = Literal["auto", "reference", "chunked", "triton"]
LogitsCache = Literal["none", "auto"]
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
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each row, from logits; both differentiable (once).

    Args:
        logits: ``[N, V]``; bf16, fp16, fp32 or fp64.
        targets: ``[N]`` integer ids in [0, V).
        temperature: both results are those of ``softmax(logits / temperature)``; a float or one per row ``[N]``, above 0, without gradient.
        backend: "triton" on CUDA and "chunked" elsewhere for "auto"; "reference" is plain torch and holds several ``[N, V]`` tensors.
        ignore_index: rows with this target give 0 for both results, and exactly 0 as gradients.
        shard: the logits are this rank's slice of a vocabulary-parallel head (targets count in the whole vocabulary, equal on all ranks).
        inplace_backward: write the gradient over the logits, which nothing may read after the forward pass. Not under `torch.compile`.

    Returns:
        logprob ``[N]`` and entropy ``[N]``, in nat, fp32 (fp64 for fp64 logits). A row without a finite logit, or with a NaN, gives NaN.

    Raises:
        ConfigError: a shape, dtype, temperature or backend that cannot be, named in the message.
        DataError: a target outside the vocabulary.
    """
    _check_matrix("logits", logits)
    _check_targets(targets, logits, "logits")
    scalar, per_row = _check_temperature(temperature, logits)
    chosen = _choose(backend, logits)
    if chosen == "reference":
        _check_reference(shard, targets, ignore_index, logits.shape[1], per_row)
        return reference.logits_token_stats(logits, targets, scalar if per_row is None else per_row, ignore_index)
    if inplace_backward and torch.compiler.is_compiling():
        raise ConfigError("inplace_backward: not possible inside torch.compile; leave it False there")
    if _directly(chosen, logits.shape[0], logits.shape[1], logits.device, shard) and not inplace_backward:
        kept = _check_values(targets, ignore_index, logits.shape[1], per_row)
        return direct.logits_token_stats(logits, targets, scalar if per_row is None else per_row, kept)
    group, start, total = _placement(shard, logits.shape[1])
    results = operators.logits_statistics(logits, targets, per_row, scalar, ignore_index, chosen, group, start, total, inplace_backward)
    return results[0], results[1]


def linear_token_stats(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    temperature: Tensor | float = 1.0,
    backend: Backend = "auto",
    workspace_mb: float = 256,
    *,
    ignore_index: int | None = None,
    logits_cache: LogitsCache = "auto",
    shard: VocabularyShard | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of ``softmax((hidden @ weight.T + bias) / temperature)``, without ever holding the logits ``[N, V]``.

    Under autocast the three matrices are cast to the autocast dtype; sums are fp32 in any case (fp64 for fp64). Differentiable once,
    in both results, with respect to `hidden`, `weight` and `bias`; only the gradients that are needed are computed, and rows without
    upstream gradients cost nothing.

    Args:
        hidden: ``[N, D]``; N may be 0.
        weight: ``[V, D]``, a plain tensor: gather a sharded parameter first (FSDP2: within the forward of the module that owns it).
        targets: ``[N]`` integer ids in [0, V).
        bias: ``[V]`` or None.
        temperature: a float or one per row ``[N]``, above 0, without gradient.
        backend: as in `logits_token_stats`.
        workspace_mb: MiB that may be used beside inputs, results and gradients (the fp32 sum of the gradient of `hidden` is one of these).
        ignore_index: rows with this target are left out of all work: results 0, gradients exactly 0.
        logits_cache: "auto" keeps as many columns of the logits for the backward pass as 3/4 of the workspace holds; "none" recomputes all.
        shard: `weight` (and `bias`) is this rank's slice of V; `hidden` and `targets` are equal on all ranks, and so are the results.

    Returns:
        logprob ``[N]`` and entropy ``[N]``, as in `logits_token_stats`.

    Raises:
        ConfigError: a shape, dtype, temperature, backend or workspace that cannot be, named in the message.
        DataError: a target outside the vocabulary.
    """
    plain = backend in ("auto", "chunked") and ignore_index is None and shard is None and logits_cache == "auto" and workspace_mb > 0
    if plain and bias is None and direct.takes(hidden, weight, targets, temperature):
        try:
            return direct.linear_token_stats(hidden, weight, targets, None, temperature, None)
        except RuntimeError:  # such as a target out of range: what follows says which argument it is
            pass
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
    _check_targets(targets, hidden, "hidden")
    scalar, per_row = _check_temperature(temperature, hidden)
    if not workspace_mb > 0:
        raise ConfigError(f"workspace_mb: {workspace_mb} is not above 0")
    if logits_cache not in ("none", "auto"):
        raise ConfigError(f"logits_cache: {logits_cache!r} is not one of none, auto")
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = (tensor if tensor.dtype == torch.float64 else tensor.to(dtype) for tensor in (hidden, weight))
        bias = bias if bias is None or bias.dtype == torch.float64 else bias.to(dtype)
    chosen = _choose(backend, hidden)
    if chosen == "reference":
        _check_reference(shard, targets, ignore_index, weight.shape[0], per_row)
        return reference.linear_token_stats(hidden, weight, targets, bias, scalar if per_row is None else per_row, ignore_index)
    if logits_cache == "auto" and _directly(chosen, hidden.shape[0], weight.shape[0], hidden.device, shard):
        kept = _check_values(targets, ignore_index, weight.shape[0], per_row)
        return direct.linear_token_stats(hidden, weight, targets, bias, scalar if per_row is None else per_row, kept)
    workspace = int(workspace_mb * 2**20)
    differentiated = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias))
    keep_logits = differentiated and logits_cache == "auto"
    group, start, total = _placement(shard, weight.shape[0])
    results = operators.linear_statistics(
        hidden, weight, bias, targets, per_row, scalar, ignore_index, chosen, workspace, keep_logits, group, start, total
    )
    return results[0], results[1]


def _choose(backend: str, tensor: Tensor) -> str:
    if backend == "auto":
        return "triton" if tensor.is_cuda and tensor.dtype != torch.float64 and find_spec("triton") else "chunked"
    if backend not in ("reference", "chunked", "triton"):
        raise ConfigError(f"backend: {backend!r} is not one of auto, reference, chunked, triton")
    if backend == "triton":
        if find_spec("triton") is None:
            raise ConfigError("backend: triton is not installed; install aer-lightning[triton] or choose chunked")
        if tensor.is_cuda and tensor.dtype == torch.float64:
            raise ConfigError("backend: triton has no fp64 kernels; choose chunked or auto")
        if not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
            raise ConfigError(
                f"backend: triton needs CUDA tensors, got {tensor.device} (or TRITON_INTERPRET=1, for tests); choose chunked or auto"
            )
    return backend


def _check_matrix(name: str, tensor: Tensor) -> None:
    if type(tensor).__name__ == "DTensor":
        raise ConfigError(f"{name}: is a DTensor; gather it first (full_tensor(), or within the forward of the module that owns it)")
    if tensor.ndim != 2 or tensor.shape[1] == 0 or (name == "weight" and tensor.shape[0] == 0):
        raise ConfigError(f"{name}: shape {_shape(tensor)}; expected two dimensions, not empty (flatten batch and time first)")
    if tensor.dtype not in DTYPES:
        raise ConfigError(f"{name}: dtype {tensor.dtype} is not supported; one of {', '.join(str(dtype) for dtype in DTYPES)}")


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


def _check_values(targets: Tensor, ignore_index: int | None, vocabulary: int, row_temperature: Tensor | None) -> Tensor | None:
    """Check what only the data can tell; return the mask of the rows that are not ignored, None if none is."""
    if row_temperature is not None:
        selection.check_row_temperature(row_temperature)
    return selection.kept_rows(targets, ignore_index, vocabulary)[0]


def _check_reference(
    shard: VocabularyShard | None, targets: Tensor, ignore_index: int | None, vocabulary: int, row_temperature: Tensor | None
) -> None:
    if shard is not None:
        raise ConfigError("shard: the reference backend holds the whole vocabulary; choose chunked or triton")
    _check_values(targets, ignore_index, vocabulary, row_temperature)


def _directly(backend: str, rows: int, vocabulary: int, device: torch.device, shard: VocabularyShard | None) -> bool:
    return backend == "chunked" and shard is None and not torch.compiler.is_compiling() and direct.is_small(rows, vocabulary, device)


def _placement(shard: VocabularyShard | None, columns: int) -> tuple[str, int, int]:
    if shard is None:
        return "", 0, columns
    if shard.start < 0 or shard.start + columns > shard.total:
        raise ConfigError(f"shard: columns {shard.start} to {shard.start + columns} are not within the vocabulary of {shard.total}")
    return shard.group.group_name, shard.start, shard.total


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
