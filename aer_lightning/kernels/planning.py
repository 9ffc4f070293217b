"""How a pass over ``hidden @ weight.T`` is cut into blocks within a memory budget, and what that costs.

Forward, rows are the outer loop and the vocabulary is merged block by block. Backward, columns are the outer loop: a slice of the weight's
gradient is complete when it is left, and is rounded once. Per element of the logits the gradient of the hidden states is read and written
``8 D / columns`` bytes and that of the weight ``8 D / rows``: so both directions are blocked, and the traffic of a given budget no longer
grows with the square of the tokens. Worked example, 32,768 x 4096 x 151,936 in bf16 with 1 GiB for the block (6 bytes a logit): all rows
at once leave 5,376 columns, 29 times 1.1 GB of dX; 16,384 rows leave 10,752, which costs 15 times dX and twice dW.

The time is a roofline: each kernel takes the larger of its arithmetic and its traffic, and kernels follow one another. A plan is chosen
by that time and the traffic of the fp32 sums of gradients on top, as if no product hid it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch

from aer_lightning.errors import ConfigError
from aer_lightning.kernels.statistics import accumulation_dtype

MIB = 1 << 20
ROW_BYTES = 192  # statistics, factors, indices and targets of a row while they are made
SLOTS = 64  # blocks' statistics that are merged at once: one by one, rounding would cost the entropy some 1e-6 nat
CPU_BLOCK_ELEMENTS, CPU_BLOCK_ROWS = 1 << 21, 1 << 11  # 8 MiB of fp32: two such buffers fit in the last-level cache of a small server
TOP_BYTES = 36  # a logit of a row that is sorted in torch: values, indices, probabilities
TRITON_SHARE = 0.85  # of the library's matrix rate that a Triton product is taken to reach; assumed, not measured


@dataclass(frozen=True)
class Device:
    """What a plan has to know of a device. The rates are those of bf16 products (TFLOP/s) and of copies (TB/s), as reached, not as sold."""

    name: str
    kind: Literal["cpu", "cuda", "interpreter"]
    capability: int = 0  # x 10: 80 Ampere, 90 Hopper, 100 and 120 Blackwell
    processors: int = 1
    tflops: float = 0.1
    tbps: float = 0.02
    memory: int = 0  # GiB
    mixed: bool = True  # products of 16-bit operands with an fp32 sum and result


DEVICES = {
    "A100": Device("A100", "cuda", 80, 108, 250, 1.7, 80),
    "H100": Device("H100", "cuda", 90, 132, 700, 3.0, 80),
    "H200": Device("H200", "cuda", 90, 132, 790, 4.3, 141),
    "B200": Device("B200", "cuda", 100, 148, 1500, 7.0, 180),
}
CPU = Device("cpu", "cpu", mixed=False)
INTERPRETER = Device("interpreter", "interpreter", 90, 3, 700, 3.0)


@dataclass(frozen=True)
class Plan:
    """The blocks of one call, made before its forward pass and kept for its backward pass. Three forms.

    ``torch`` works in torch operations; ``rows`` writes a block of fp32 logits with the library's product and reads it with a row kernel;
    ``product`` is one Triton kernel, product and statistics (or gradient) together.
    """

    form: str
    tile: tuple[int, int, int]  # rows, columns and depth of a product's tile; (1, columns, 0) of a row kernel's block
    rows: int  # of a block
    columns: int
    cached: bool  # all logits are kept for the backward pass, in which their gradient replaces them
    two_passes: bool  # gradients of hidden and weight one after the other: the fp32 sum of the first does not fit
    scan_rows: int  # rows of a block that holds the whole vocabulary, for the top of the row; 0 if nothing asks for it
    bytes: int  # the most that is held beside inputs, results and gradients
    tokens: int
    width: int
    vocabulary: int
    itemsize: int  # of a product's operand
    cast: bool  # the weight has another dtype than the products, and is cast slice by slice
    device: Device

    @property
    def flops(self) -> tuple[int, int]:
        """Forward and backward: 2NDV, and 4NDV with cached logits, 6NDV with computed ones, 8NDV in two passes."""
        work = 2 * self.tokens * self.width * self.vocabulary
        return work, work * (2 if self.cached else 4 if self.two_passes else 3)

    @property
    def bytes_moved(self) -> tuple[int, int]:
        """Bytes read and written from and to the device's memory, forward and backward, if nothing stays in a cache."""
        return tuple(int(sum(moved + sums for _, moved, sums in part)) for part in self._kernels())  # type: ignore[return-value]

    @property
    def seconds(self) -> tuple[float, float]:
        """The roofline, forward and backward."""
        rate, bandwidth = self._rates()
        return tuple(sum(max(work / rate, (moved + sums) / bandwidth) for work, moved, sums in part) for part in self._kernels())  # type: ignore[return-value]

    @property
    def seconds_with_sums(self) -> float:
        """Both passes, and the traffic of the fp32 sums as if it were hidden by no product."""
        return sum(self.seconds) + sum(sums for part in self._kernels() for _, _, sums in part) / self._rates()[1]

    def _rates(self) -> tuple[float, float]:
        return self.device.tflops * 1e12 / {2: 1, 4: 12, 8: 24}[self.itemsize], self.device.tbps * 1e12

    def _kernels(self) -> tuple[list[tuple[float, float, float]], ...]:
        """Floating-point operations (at the library's rate), bytes, and bytes of fp32 sums of each kernel."""
        n, d, v, size = self.tokens, self.width, self.vocabulary, self.itemsize
        row_blocks, column_blocks = -(-n // self.rows), -(-v // self.columns)
        logits = 4 if self.form != "product" else 0
        gradient: list[tuple[float, float, float]]
        work = 2 * n * d * v / self._busy()
        operands = size * (n * d * column_blocks + v * d * row_blocks)
        cast = [(0.0, v * d * (4 + size) * row_blocks, 0.0)] if self.cast else []
        project: tuple[float, float, float] = (work / (TRITON_SHARE if self.form == "product" else 1), operands + logits * n * v, 0.0)
        forward: list[tuple[float, float, float]] = [project, (0.0, n * v * (logits + (2 if self.cached and size == 2 else 0)), 0.0), *cast]
        if self.cached:
            gradient = [(0.0, 2 * size * n * v, 0.0)]
            row_blocks, column_blocks = 1, column_blocks if self.cast else 1
        elif self.form == "product":
            gradient = [(project[0], operands + size * n * v, 0.0)]
        else:
            gradient = [project, (0.0, n * v * (logits + size), 0.0)]
        grad_weight = (work, size * (n * v + n * d * column_blocks + v * d), 8.0 * v * d * (row_blocks if row_blocks > 1 else 0))
        summed = 0 if column_blocks == 1 and size == 2 else column_blocks
        grad_hidden = (work, size * (n * v + v * d * row_blocks + n * d), 8.0 * n * d * summed)
        return forward, [*gradient * (2 if self.two_passes else 1), grad_weight, grad_hidden, *cast]

    def _busy(self) -> float:
        """Share of the multiprocessors that a block's product keeps busy: the last wave of tiles is rarely full."""
        return busy(min(self.rows, self.tokens), min(self.columns, self.vocabulary), self.device.processors)

    def encode(self) -> dict[str, Any]:
        """As plain numbers and strings."""
        return asdict(self)

    @classmethod
    def decode(cls, fields: dict[str, Any]) -> Plan:
        """The inverse of `encode`."""
        return cls(**fields | {"tile": tuple(fields["tile"]), "device": Device(**fields["device"])})


def plan(
    N: int,
    D: int,
    V: int,
    dtype: torch.dtype = torch.bfloat16,
    memory: float | Literal["auto"] = "auto",
    device: Device | torch.device | str = "cpu",
    *,
    weight_dtype: torch.dtype | None = None,
    gradient: bool = True,
    cache: bool = True,
    top: bool = False,
    plain: bool = True,
    bias: bool = False,
    aligned: bool = True,
    form: Literal["auto", "torch", "rows", "product"] = "auto",
) -> Plan:
    """Choose form and blocks for hidden states ``[N, D]`` and a head ``[V, D]``.

    Args:
        N: tokens.
        D: width of the hidden states.
        V: vocabulary.
        dtype: of the hidden states, and of the products.
        memory: MiB that may be held beside inputs, results and gradients; "auto" goes by the device's free memory.
        device: a torch device, or the name of a GPU that is not at hand ("H100"; see `DEVICES`).
        weight_dtype: of the head, if it is another (fp32 master weights).
        gradient: whether there will be a backward pass.
        cache: whether logits may be kept for it.
        top: the entropy is over the top of the row, so that a row has to be seen as a whole.
        plain: whether the form ``product`` may be taken, which knows neither softcapping nor the top of a row.
        bias: there is one; it takes registers in the form ``product``.
        aligned: the rows of both matrices begin at multiples of 16 bytes.
        form: takes this form instead of the fastest one.

    Returns:
        the plan with the least time among those that fit, and among equals that of the least memory.

    Raises:
        ConfigError: nothing fits; the message says how much would.
    """
    described = device if isinstance(device, Device) else device_of(device)
    if memory == "auto":
        absent = isinstance(device, Device) or device in DEVICES
        budget = automatic_budget(torch.device("cpu" if absent else device), described)  # type: ignore[arg-type]
    else:
        budget = int(memory * MIB)
    made = _plan(N, D, V, dtype, budget, described, weight_dtype or dtype, gradient, cache, top, plain, bias, aligned, form)
    if isinstance(made, int):
        raise ConfigError(f"memory_mb: {memory} MiB is too little for {N} x {D} x {V}; give at least {made * 1.1 / MIB + 0.001:.3f}")
    return made


@lru_cache(maxsize=512)
def _plan(
    N: int, D: int, V: int, dtype: torch.dtype, budget: int, device: Device, weight_dtype: torch.dtype,
    gradient: bool, cache: bool, top: bool, plain: bool, bias: bool, aligned: bool, form: str,
) -> Plan | int:  # fmt: skip
    """The plan, or the bytes that would do."""
    draft = Plan("torch", (1, 1, 0), 1, 1, False, False, 0, 0, max(1, N), D, V, dtype.itemsize, weight_dtype != dtype, device)
    accumulator = accumulation_dtype(dtype)
    if not device.mixed or (device.kind == "interpreter" and dtype == torch.bfloat16):  # whose products and stores of bf16 are wrong
        draft = replace(draft, itemsize=accumulator.itemsize, cast=weight_dtype != accumulator)
    sizes = _Sizes(dtype.itemsize, weight_dtype.itemsize, accumulator.itemsize, gradient, plain and not top)
    forms = _forms(device, plain and not top and draft.itemsize == 2) if form == "auto" else (form,)
    found = []
    for each in forms:
        base = replace(draft, form=each, tile=_tile(each, device, bias, aligned))
        for cached, two_passes in ((True, False), (False, False), (False, True)):
            # In 16 bit only what the row kernels can restore, and no threshold: rounding would move tokens over it.
            half = draft.itemsize < accumulator.itemsize
            may_cache = cache and gradient and each != "product" and not (half and (top or each == "torch"))
            if (cached and not may_cache) or (two_passes and not gradient):
                continue
            for rows in _row_candidates(base):
                candidate = replace(base, rows=rows, cached=cached, two_passes=two_passes)
                columns = _widest(candidate, sizes, budget)
                if columns:
                    candidate = replace(candidate, columns=columns)
                    found.append(replace(candidate, bytes=sizes.total(candidate)))
    if found and top:
        per_row = V * (TOP_BYTES if found[0].form == "torch" else 4)
        left = budget - ROW_BYTES * N - (sizes.cache(found[0]) if found[0].cached else 0)
        scan = min(max(1, N), left // (per_row + D * 4))
        found = [replace(each, scan_rows=scan, bytes=max(each.bytes, budget)) for each in found if scan > 0]
    if not found:
        least = replace(draft, form=forms[0], rows=1, columns=min(V, 16), two_passes=gradient)
        return sizes.total(least) + (V * TOP_BYTES if top else 0)
    if device.kind == "cpu":  # whose caches and vector units no roofline describes: whole blocks
        return min(found, key=lambda each: (not each.cached, each.two_passes, -each.rows * min(each.columns, V), -each.rows))
    fastest = min(each.seconds_with_sums for each in found)
    return min((each for each in found if each.seconds_with_sums <= fastest * 1.005), key=lambda each: (each.bytes, each.seconds_with_sums))


@dataclass(frozen=True)
class _Sizes:
    """Bytes of an element of hidden, weight and the accumulators, and what a plan holds at the most."""

    hidden: int
    weight: int
    accumulator: int
    gradient: bool
    plain: bool

    def total(self, plan: Plan) -> int:
        n, d, v = plan.tokens, plan.width, plan.vocabulary
        rows, columns = min(plan.rows, n), min(plan.columns, v)
        padded = -(-columns // 64) * 64
        product, full = plan.itemsize, self.accumulator
        weights = columns * d * (product + self.hidden) if plan.cast else 0
        slots = min(SLOTS, -(-v // columns)) * rows * 12 * full
        block = {"torch": (2 if self.plain else 4) * full, "rows": full, "product": 0}[plan.form] * rows * padded
        tiles = rows * -(-columns // plan.tile[1]) * 4 * full if plan.form != "torch" else 0
        forward = rows * d * product + weights + slots + block + tiles
        backward = 0
        if self.gradient:
            in_place = plan.cached or (product == full and plan.form != "product")
            held = n if plan.cached else rows  # a whole cache is walked in one product where no operand has to be cast
            backward = held * d * product + weights + (block if not plan.cached or plan.form == "torch" else 0)
            backward += 0 if in_place else rows * padded * product
            summed = rows if plan.two_passes else n
            direct = self.hidden == full or (plan.cached and not plan.cast and product == self.hidden)
            backward += 0 if direct and not plan.two_passes else summed * d * full
            rounded = self.weight == full or (product == self.weight and (plan.cached or rows >= n))
            backward += 0 if rounded else columns * d * full
        kept = self.cache(plan) if plan.cached else 0
        return ROW_BYTES * n * full // 4 + kept + max(forward, backward)

    def cache(self, plan: Plan) -> int:
        padded = -(-plan.vocabulary // 64) * 64
        size = plan.itemsize if plan.form == "rows" else self.accumulator
        return plan.tokens * (padded * size + (-(-plan.vocabulary // plan.tile[1]) * 4 if size == 2 else 0))


def _forms(device: Device, plain: bool) -> tuple[str, ...]:
    return ("torch",) if device.kind == "cpu" else ("rows", "product") if plain else ("rows",)


def _tile(form: str, device: Device, bias: bool, aligned: bool) -> tuple[int, int, int]:
    """A static table. No choice may spill registers (tests/kernels/test_compiled.py); wide tiles have no room for a bias."""
    if form == "torch":
        return 1, 1, 0
    if device.kind == "interpreter":
        return (1, 128, 0) if form == "rows" else (32, 32, 32)
    if form == "rows":
        return 1, 8192, 0
    if device.capability < 90 or device.capability >= 120:
        return 128, 128 if device.capability < 90 else 64, 32
    return 128, (256 if aligned and not bias else 128 if aligned or device.capability < 100 else 64), 64


def _row_candidates(plan: Plan) -> Iterator[int]:
    most = min(plan.tokens, CPU_BLOCK_ROWS) if plan.device.kind == "cpu" else plan.tokens
    yield most
    step = 16 if plan.device.kind != "cuda" else 128
    for parts in (2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64):
        rows = -(-plan.tokens // parts // step) * step
        if rows < most:
            yield rows
    for rows in (16, 4, 1):
        if rows < most:
            yield rows


def _widest(plan: Plan, sizes: _Sizes, budget: int) -> int:
    """The widest block of columns that the budget allows, rounded to whole waves of tiles; 0 if not even 16 fit."""
    v, rows = plan.vocabulary, min(plan.rows, plan.tokens)
    if plan.device.kind == "cpu":
        budget = min(budget, sizes.total(replace(plan, columns=max(16, min(v, CPU_BLOCK_ELEMENTS // rows)))))
    if sizes.total(replace(plan, columns=v)) <= budget:
        return v
    unit = plan.tile[1] if plan.cached and plan.form == "rows" else 16  # the tiles of a cache do not straddle blocks
    low, high = 0, -(-v // unit)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sizes.total(replace(plan, columns=middle * unit)) <= budget else (low, middle)
    columns = low * unit
    if columns >= 512 and unit == 16 and plan.device.kind == "cuda":
        most = columns // 256
        processors = plan.device.processors
        columns = 256 * max(range(most, most // 2, -1), key=lambda tiles: (round(busy(rows, 256 * tiles, processors), 2), tiles))
    elif columns >= 128 and unit == 16:
        columns -= columns % 128
    return columns


def busy(rows: int, columns: int, processors: int) -> float:
    """Share of full waves in a product of ``[rows, columns]`` with tiles of 128 x 256: 8192 x 8448 on 132 processors are 16 of 16."""
    tiles = -(-rows // 128) * -(-columns // 256)
    return tiles / (-(-tiles // processors) * processors)


def device_of(device: torch.device | str, interpreted: bool = False) -> Device:
    """Describe a torch device, or look up a name."""
    if isinstance(device, str) and device in DEVICES:
        return DEVICES[device]
    device = torch.device(device)
    if device.type != "cuda":
        return INTERPRETER if interpreted else CPU
    return _cuda_device(device)


@lru_cache(maxsize=64)
def _cuda_device(device: torch.device) -> Device:
    found = torch.cuda.get_device_properties(device)
    capability, processors, memory = found.major * 10 + found.minor, found.multi_processor_count, found.total_memory >> 30
    for name, known in DEVICES.items():
        if name in found.name:
            return replace(known, capability=capability, processors=processors, memory=memory, mixed=_mixed(device))
    return Device(found.name, "cuda", capability, processors, 500 * processors / 132, 1.5, memory, _mixed(device))


def _mixed(device: torch.device) -> bool:
    """Try whether torch adds a product of 16-bit matrices to an fp32 matrix there; on CUDA most can."""
    left = torch.linspace(-1, 1, 256, device=device).view(16, 16).bfloat16()
    out = torch.ones(16, 16, device=device)
    try:
        torch.addmm(out, left, left, out_dtype=torch.float32, beta=1, out=out)
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return torch.allclose(out, left.double().matmul(left.double()).float() + 1, atol=1e-4)


def automatic_budget(device: torch.device, described: Device) -> int:
    """Bytes: a power of two, so that a little more or less free memory changes nothing, at most half of what is free.

    64 MiB on a CPU; on a GPU at most 1/8 of its memory. 1 GiB while a CUDA graph is captured, which will be replayed beside other things.
    """
    if described.kind != "cuda":
        return 64 * MIB
    most = described.memory << 30 >> 3
    if device.type == "cuda":
        if torch.cuda.is_current_stream_capturing():
            return 1024 * MIB
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        most = min(most, free // 2)
    return 1 << max(20, most.bit_length() - 1)
