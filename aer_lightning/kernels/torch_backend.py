"""The backend in torch operations: any device. Element-wise work is done in place on blocks that stay in a CPU's last-level cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aer_lightning.kernels import walk
from aer_lightning.kernels.planning import CPU_BLOCK_ELEMENTS
from aer_lightning.kernels.statistics import accumulation_dtype, finite_maximum, top_threshold
from aer_lightning.kernels.walk import Block, Head, rows_of, spans


def logits_statistics(
    logits: Tensor, targets: Tensor, inverse: Tensor | float, squash: float, entropy: bool, top: tuple[float, float] | None
) -> tuple[Tensor, Tensor]:
    """Partial statistics of logits ``[N, V]``, as `walk.forward` gives those of a product."""
    dtype = accumulation_dtype(logits.dtype)
    out = logits.new_empty((7 if top else 4, logits.shape[0]), dtype=dtype)
    step = _rows_at_once(logits)
    scratch = _Scratch(logits, step * logits.shape[1], dtype)
    for start, stop in spans(logits.shape[0], step):
        part = logits[start:stop], targets[start:stop], rows_of(inverse, start, stop)
        _statistics(*part, squash, scratch, out[:, start:stop], entropy, top)
    return out[:4], out[4:]


def logits_gradient(
    gradient: Tensor, logits: Tensor, targets: Tensor, factors: Tensor, squash: float, scratch: _Scratch | None = None
) -> None:
    """Write the gradient of logits ``[N, V]`` into `gradient`, which may be the logits themselves."""
    scratch = scratch or _Scratch(logits, _rows_at_once(logits) * logits.shape[1], factors.dtype)
    step = max(1, scratch.elements // logits.shape[1])
    for start, stop in spans(logits.shape[0], step):
        target = gradient[start:stop] if gradient.dtype == factors.dtype else None
        result = _differentiate(logits[start:stop], targets[start:stop], factors[:, start:stop], squash, scratch, target)
        if target is None:
            gradient[start:stop] = result


class TorchEngine:
    """See `walk.Engine`; two buffers of a block, used in place."""

    def __init__(self, head: Head, entropy: bool, backward: bool) -> None:
        self.entropy = entropy
        self.operand, full = head.dtypes
        plan, columns = head.plan, head.weight.shape[0]
        elements = min(plan.rows, head.rows) * min(plan.columns, columns)
        self.scratch = _Scratch(head.hidden, elements if backward else max(elements, min(plan.scan_rows, head.rows) * columns), full)

    def statistics(self, block: Block, out: Tensor, top: tuple[float, float] | None) -> None:
        """See `walk.Engine`."""
        _statistics(self._project(block), block.targets, block.inverse, block.squash, self.scratch, out, self.entropy, top)

    def gradient(self, block: Block, factors: Tensor, computed: bool) -> Tensor:
        """See `walk.Engine`."""
        if computed or block.cache is None:
            return _differentiate(self._project(block), block.targets, factors, block.squash, self.scratch, None).to(self.operand)
        logits_gradient(block.cache, block.cache, block.targets, factors, block.squash, self.scratch)
        return block.cache

    def _project(self, block: Block) -> Tensor:
        logits = block.logits
        if logits is None:
            shape = (block.hidden.shape[0], block.weight.shape[0])
            logits = self.scratch(0, shape) if block.cache is None else block.cache
            walk.product(logits, block.hidden, block.weight.T)
        elif block.cache is not None:
            logits = block.cache.copy_(logits)
        if block.bias is not None:
            logits += block.bias
        return logits


engine = TorchEngine


class _Scratch:
    """Two buffers of a block, made when they are first used."""

    def __init__(self, like: Tensor, elements: int, dtype: torch.dtype) -> None:
        self.like, self.elements, self.dtype = like, max(1, elements), dtype
        self.buffers: list[Tensor | None] = [None, None]

    def __call__(self, number: int, shape: tuple[int, ...]) -> Tensor:
        buffer, size = self.buffers[number], shape[0] * shape[1]
        if buffer is None or buffer.numel() < size:
            buffer = self.buffers[number] = self.like.new_empty(max(self.elements, size), dtype=self.dtype)
        return buffer[:size].view(shape)


def _statistics(
    logits: Tensor, targets: Tensor, inverse: Tensor | float, squash: float, scratch: _Scratch, out: Tensor, entropy: bool,
    top: tuple[float, float] | None,
) -> None:  # fmt: skip
    """Write the statistics of a block; the logits may lie in the first buffer and are overwritten then."""
    shape = tuple(logits.shape)
    if squash:
        logits = scratch(0, shape).copy_(logits).mul_(squash).tanh_()
    inside = (targets >= 0) & (targets < shape[1])
    at_target = logits.gather(1, targets.clamp(0, shape[1] - 1).unsqueeze(1)).squeeze(1).to(out.dtype)
    maximum = logits.amax(1).to(out.dtype)
    if top:
        out[4] = top_threshold(logits.to(out.dtype), inverse, *top)
        beyond = logits < out[4].unsqueeze(1)
    distance = torch.sub(logits, finite_maximum(maximum).unsqueeze(1), out=scratch(0, shape))
    _times(distance, inverse)
    _cut(distance, 1.0)
    shares = torch.exp(distance, out=scratch(1, shape))
    out[0], out[2], out[3] = maximum, 0, at_target.where(inside, torch.zeros_like(at_target))
    if entropy:
        out[2] = distance.mul_(shares).sum(1)
    out[1] = _rest(shares, maximum, scratch, distance if not top else None)
    if top:
        out[6] = distance.masked_fill_(beyond, 0.0).sum(1)
        out[5] = _rest(shares.masked_fill_(beyond, 0.0), maximum, scratch, None)
        out[5:7] += 0 * out[1]  # a NaN anywhere in the row


def _rest(shares: Tensor, maximum: Tensor, scratch: _Scratch, spare: Tensor | None) -> Tensor:
    """The sum without the 1 of the maximum. Below 2 there is one such 1, and only it has no fraction."""
    total = shares.sum(1)
    peaked = total < 2
    if shares.is_cuda or bool(peaked.any()):
        fractions = torch.frac(shares, out=spare) if spare is not None else shares.frac()
        rest = torch.where(peaked, fractions.sum(1), total - 1)
    else:
        rest = total - 1
    return torch.where(maximum == -float("inf"), -torch.ones_like(rest), rest)


def _differentiate(logits: Tensor, targets: Tensor, factors: Tensor, squash: float, scratch: _Scratch, out: Tensor | None) -> Tensor:
    """Differentiate a block of logits ``[n, v]`` into `out` or the first buffer; the logits may lie in either and are overwritten then."""
    shape = tuple(logits.shape)
    maximum, log_sum, inverse, at_target, common, slope = factors[:6].unsqueeze(2)
    result = scratch(0, shape) if out is None else out
    slopes = None
    if squash:
        logits = result.copy_(logits).mul_(squash).tanh_()
        slopes = torch.addcmul(torch.ones_like(maximum), logits, logits, value=-1)
    beyond = logits < factors[6].unsqueeze(1) if len(factors) == 8 else None
    log_probability = torch.sub(logits, maximum, out=result)
    if logits.is_cuda or bool((inverse != 1).any()):
        log_probability.mul_(inverse)
    _cut(log_probability.sub_(log_sum), 1.0 if logits.is_cuda else float(factors[3:6].abs().amax()))
    probability = torch.exp(log_probability, out=scratch(1, shape))
    if beyond is not None:
        log_probability.add_(factors[7].unsqueeze(1)).masked_fill_(beyond, 0.0)
    gradient = log_probability.mul_(-slope).add_(common).mul_(probability)
    index = targets.clamp(0, shape[1] - 1).long().unsqueeze(1)
    inside = ((targets >= 0) & (targets < shape[1])).unsqueeze(1)
    gradient.scatter_(1, index, torch.where(inside, at_target, gradient.gather(1, index)))
    if slopes is not None:
        gradient.mul_(slopes)
    idle = (at_target == 0) & (common == 0) & (slope == 0)
    if gradient.is_cuda or bool(idle.any()):
        gradient.masked_fill_(idle, 0.0)  # exactly, also where a logit is NaN
    return gradient


def _rows_at_once(logits: Tensor) -> int:
    elements = CPU_BLOCK_ELEMENTS if logits.device.type == "cpu" else CPU_BLOCK_ELEMENTS * 16
    return max(1, min(logits.shape[0], elements // max(1, logits.shape[1])))


def _cut(exponents: Tensor, factor: float) -> None:
    """Let e^x be 0 where e^x or e^x times a factor below 1 has no normal number: products of denormal ones take many times as long.

    The exponent there becomes finite, because 0 * -inf would be NaN; NaN stays.
    """
    lowest = math.log(torch.finfo(exponents.dtype).tiny)
    torch.threshold_(exponents, lowest - math.log(factor) if 0 < factor < 1 else lowest, -1000.0)


def _times(block: Tensor, inverse: Tensor | float) -> None:
    if isinstance(inverse, Tensor):
        block.mul_(inverse.unsqueeze(1))
    elif inverse != 1.0:
        block.mul_(inverse)
