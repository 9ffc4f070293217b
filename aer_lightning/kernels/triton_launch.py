"""How the Triton kernels are called: grids, strides and constants for torch tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache as remember

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from aer_lightning.kernels import triton_products, triton_rows
from aer_lightning.kernels.launch import ROW_BLOCK, ProductLaunch, processors, sum_tile_for
from aer_lightning.kernels.linear import Factors
from aer_lightning.kernels.partials import RowStatistics


def launch_statistics(
    partials: Tensor,
    logits: Tensor,
    targets: Tensor,
    inverse_temperature: Tensor | float,
    split_columns: int,
    cache: Tensor | None,
    cache_maximum: Tensor,
    first_tile: int,
) -> None:
    """Write the partial statistics ``[4, S, N]`` of logits ``[N, V]``; with a cache, keep their distances to the maximum of their tile."""
    rows, columns = logits.shape
    if rows == 0:
        return
    splits = partials.shape[1]
    inverse, inverse_stride = _inverse(inverse_temperature, partials)
    block = ROW_BLOCK if cache is not None else min(ROW_BLOCK * 4, triton.next_power_of_2(split_columns))
    with _device(logits):
        triton_rows.statistics_kernel[(rows * splits,)](
            logits,
            targets,
            inverse,
            partials,
            logits if cache is None else cache,
            cache_maximum,
            logits.stride(0),
            inverse_stride,
            partials.stride(0),
            partials.stride(1),
            0 if cache is None else cache.stride(0),
            0 if cache is None else cache_maximum.stride(0),
            columns,
            split_columns,
            splits,
            first_tile,
            CACHED=cache is not None,
            BLOCK=block,
            num_warps=8 if block >= 2048 else 4,
        )


def launch_gradient(
    gradient: Tensor, logits: Tensor, cache_maximum: Tensor | None, targets: Tensor, factors: Factors, first_tile: int, tile: int
) -> None:
    """Write the gradient of logits ``[N, V]``, or of the cache if there are tile maxima."""
    rows, columns = logits.shape
    if rows == 0:
        return
    inverse, inverse_stride = _inverse(factors.inverse_temperature, factors.maximum)
    block = min(ROW_BLOCK, triton.next_power_of_2(columns))
    column_blocks = -(-columns // block)
    with _device(logits):
        triton_rows.gradient_kernel[(rows * column_blocks,)](
            gradient,
            logits,
            factors.maximum if cache_maximum is None else cache_maximum,
            targets,
            inverse,
            factors.maximum,
            factors.log_sum,
            factors.entropy,
            factors.grad_logprob,
            factors.grad_logprob if factors.grad_entropy is None else factors.grad_entropy,
            gradient.stride(0),
            logits.stride(0),
            0 if cache_maximum is None else cache_maximum.stride(0),
            inverse_stride,
            columns,
            column_blocks,
            first_tile,
            ENTROPY=factors.grad_entropy is not None,
            TILE=tile,
            BLOCK=block,
            num_warps=8 if block >= 2048 else 4,
        )


def launch_merge(partials: Tensor, inverse_temperature: Tensor | float, results: tuple[Tensor, ...] | RowStatistics, finish: bool) -> None:
    """Merge partial statistics ``[4, S, N]`` into four results ``[N]``; `finish` turns them into those of the entry points."""
    _, splits, rows = partials.shape
    if rows == 0:
        return
    inverse, inverse_stride = _inverse(inverse_temperature, partials)
    with _device(partials):
        triton_rows.merge_kernel[(triton.cdiv(rows, 32),)](
            partials,
            inverse,
            *results,
            partials.stride(0),
            partials.stride(1),
            inverse_stride,
            splits,
            rows,
            FINISH=finish,
            ROWS=32,
            SPLITS=min(32, triton.next_power_of_2(splits)),
            num_warps=4,
        )


def launch_product_statistics(
    partials: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    inverse_temperature: Tensor | float,
    cache: Tensor | None,
    cache_maximum: Tensor,
    first_tile: int,
    launch: ProductLaunch,
) -> None:
    """Write the partial statistics ``[4, tiles, N]`` of ``hidden @ weight.T``."""
    hidden, weight = _row_major(hidden), _row_major(weight)
    inverse, inverse_stride = _inverse(inverse_temperature, partials)
    with _device(hidden):
        triton_products.product_statistics_kernel[launch.grid(hidden.shape[0], weight.shape[0])](
            *_operands(hidden, weight, launch),
            hidden if bias is None else bias,
            targets,
            inverse,
            partials,
            hidden if cache is None else cache,
            cache_maximum,
            hidden.stride(0),
            weight.stride(0),
            inverse_stride,
            partials.stride(0),
            partials.stride(1),
            0 if cache is None else cache.stride(0),
            0 if cache is None else cache_maximum.stride(0),
            hidden.shape[0],
            weight.shape[0],
            hidden.shape[1],
            first_tile,
            BIAS=bias is not None,
            CACHED=cache is not None,
            **launch.options(),
        )


def launch_product_gradient(
    gradient: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, factors: Factors, launch: ProductLaunch
) -> None:
    """Write the gradient of ``hidden @ weight.T`` ``[N, V]``, computed again."""
    hidden, weight = _row_major(hidden), _row_major(weight)
    inverse, inverse_stride = _inverse(factors.inverse_temperature, factors.maximum)
    with _device(hidden):
        triton_products.product_gradient_kernel[launch.grid(hidden.shape[0], weight.shape[0])](
            *_operands(hidden, weight, launch),
            hidden if bias is None else bias,
            targets,
            inverse,
            factors.maximum,
            factors.log_sum,
            factors.entropy,
            factors.grad_logprob,
            factors.grad_logprob if factors.grad_entropy is None else factors.grad_entropy,
            gradient,
            hidden.stride(0),
            weight.stride(0),
            inverse_stride,
            gradient.stride(0),
            hidden.shape[0],
            weight.shape[0],
            hidden.shape[1],
            BIAS=bias is not None,
            ENTROPY=factors.grad_entropy is not None,
            **launch.options(),
        )


def launch_product(out: Tensor, left: Tensor, right: Tensor, accumulate: bool, launch: ProductLaunch) -> None:
    """Compute ``out (+)= left @ right`` in fp32, where the library cannot."""
    if out.is_cuda:
        launch = sum_tile_for(launch, torch.cuda.get_device_capability(out.device)[0])
    options = launch.options()
    options["DTYPE"] = triton.language.float32
    del options["DOT"], options["DESCRIPTORS"]
    with _device(out):
        triton_products.product_kernel[launch.grid(out.shape[0], out.shape[1])](
            left,
            right,
            out,
            left.stride(0),
            left.stride(1),
            right.stride(0),
            right.stride(1),
            out.stride(0),
            out.shape[0],
            out.shape[1],
            left.shape[1],
            ACCUMULATE=accumulate,
            **options,
        )


def splits_of(rows: int, columns: int, device: torch.device) -> tuple[int, int]:
    """How often a row is split, and into how many columns: only as far as N alone does not fill the device."""
    most = max(1, columns // ROW_BLOCK)
    splits = min(most, -(-4 * processors(device) // max(1, rows)))
    split_columns = -(-columns // (splits * ROW_BLOCK)) * ROW_BLOCK
    return max(1, -(-columns // split_columns)), split_columns


def _inverse(inverse_temperature: Tensor | float, like: Tensor) -> tuple[Tensor, int]:
    """One value a row, or one for all with stride 0; a tensor because a float argument would be rounded to fp32 also for fp64."""
    if isinstance(inverse_temperature, Tensor):
        return inverse_temperature.contiguous(), 1
    return _constant(inverse_temperature, like.dtype, like.device), 0


@remember
def _constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((1,), value, dtype=dtype, device=device)


def _operands(hidden: Tensor, weight: Tensor, launch: ProductLaunch) -> tuple[Tensor | TensorDescriptor, Tensor | TensorDescriptor]:
    if not launch.descriptors:
        return hidden, weight
    return (
        TensorDescriptor.from_tensor(hidden, [launch.rows, launch.width]),
        TensorDescriptor.from_tensor(weight, [launch.columns, launch.width]),
    )


def _row_major(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _device(tensor: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
