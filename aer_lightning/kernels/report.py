"""What the Triton kernels compile to: machine code for NVIDIA GPUs is built, and its resources read, on any machine.

`compile_case` needs no GPU: Triton carries the assembler, and `cuobjdump`, which prints registers, stack and shared memory.
It does not work in a process with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from aer_lightning.kernels import triton_products, triton_rows
from aer_lightning.kernels.launch import ROW_BLOCK, ProductLaunch, sum_tile_for, tile_for

TARGETS = (80, 90, 100)
MATRIX_INSTRUCTION = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}  # in machine code: mma.sync, wgmma, tcgen05.mma
INTERESTING = ("HGMMA", "UTCHMMA", "HMMA", "LDGSTS", "UTMALDG", "MUFU", "LDL", "STL", "LDG", "STG", "FFMA", "DFMA")
_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True)
class Case:
    """A kernel with the constants that it is compiled for."""

    name: str
    kernel: Any
    pointers: dict[str, str]
    constants: dict[str, Any]
    warps: int
    stages: int = 3
    matrix: bool = False


@dataclass(frozen=True)
class Resources:
    """What one kernel takes on one target. Bytes; registers a thread."""

    case: str
    target: int
    registers: int
    stack: int
    shared: int
    spill_stores: int
    spill_loads: int
    instructions: dict[str, int] = field(default_factory=dict)


def cases(target: int) -> Iterator[Case]:
    """List every kernel with every dtype and flag that the backend launches on a target."""
    yield from _row_cases()
    yield from _product_cases(target)


def compile_case(case: Case, target: int) -> Resources:
    """Compile to machine code for compute capability `target` / 10 and read what it takes."""
    names = case.kernel.arg_names
    signature = {}
    constants = dict(case.constants)
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    for position, name in enumerate(names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        kind = case.pointers.get(name)
        signature[name] = "i32" if kind is None else kind if kind.startswith("tensordesc") else f"*{kind}"
        # What the launcher finds out at run time: aligned pointers and strides let loads be 16 bytes wide.
        if signature[name].startswith("*") or name.endswith("_stride") or name in ("width", "columns", "split_columns"):
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(
        case.kernel, signature=signature, constexprs={(names.index(name),): value for name, value in constants.items()}, attrs=attributes
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", target, 32), options={"num_warps": case.warps, "num_stages": case.stages})
    shared = int(compiled.metadata.shared)
    return _resources(case.name, target, compiled.asm["cubin"], shared)


def _row_cases() -> Iterator[Case]:
    rows = {name: "fp32" for name in ("maximum", "log_sum", "entropy", "grad_logprob", "grad_entropy", "inverse_temperature", "partials")}
    shared = {**rows, "targets": "i64", "cache": "fp16", "cache_maximum": "fp32"}
    for dtype in _NAMES.values():
        for cached in (False, True) if dtype == "fp32" else (False,):
            block = ROW_BLOCK if cached else ROW_BLOCK * 4
            yield Case(
                f"statistics {dtype}{' cached' if cached else ''}",
                triton_rows.statistics_kernel,
                {**shared, "logits": dtype},
                {"CACHED": cached, "BLOCK": block, "inverse_stride": 0},
                8,
            )
    for source, result, tile in (
        ("bf16", "bf16", 0),
        ("fp16", "fp16", 0),
        ("fp32", "fp32", 0),
        ("fp32", "bf16", 0),
        ("fp16", "bf16", ROW_BLOCK),
    ):
        for entropy in (False, True):
            yield Case(
                f"gradient {source} to {result}{' from cache' if tile else ''}{'' if entropy else ', logprob only'}",
                triton_rows.gradient_kernel,
                {**shared, "logits": source, "gradient": result},
                {"ENTROPY": entropy, "TILE": tile, "BLOCK": ROW_BLOCK, "inverse_stride": 0},
                8,
            )
    for finish in (False, True):
        results = {f"result_{index}": "fp32" for index in range(4)}
        constants = {"FINISH": finish, "ROWS": 32, "SPLITS": 32, "inverse_stride": 0}
        yield Case(f"merge{' and finish' if finish else ''}", triton_rows.merge_kernel, {**shared, **results}, constants, 4)


def _product_cases(target: int) -> Iterator[Case]:
    rows = {name: "fp32" for name in ("maximum", "log_sum", "entropy", "grad_logprob", "grad_entropy", "inverse_temperature", "partials")}
    shared = {**rows, "targets": "i64", "cache": "fp16", "cache_maximum": "fp32"}
    capability = target // 10
    for dtype, name in _NAMES.items():
        half = dtype != torch.float32
        for aligned in (True, False) if half and capability >= 9 else (False,):
            for bias, cached in ((False, False), (True, False), (False, True)):
                launch = tile_for(dtype, capability, 132, aligned, bias, cached)
                suffix = "" if aligned or not half or capability < 9 else ", unaligned"
                flags = {"BIAS": bias, "CACHED": cached, "inverse_stride": 0, **launch.options()}
                title = f"product statistics {name}{' bias' if bias else ''}{' cached' if cached else ''}{suffix}"
                yield _product_case(title, triton_products.product_statistics_kernel, {**shared, **_matrices(name, launch)}, flags, half)
            for bias, entropy in ((False, True), (True, True), (False, False)):
                launch = tile_for(dtype, capability, 132, aligned, bias)
                flags = {"BIAS": bias, "ENTROPY": entropy, "inverse_stride": 0, **launch.options()}
                title = f"product gradient {name}{' bias' if bias else ''}{'' if entropy else ', logprob only'}{suffix}"
                yield _product_case(title, triton_products.product_gradient_kernel, {**shared, **_matrices(name, launch)}, flags, half)
        if half:
            launch = sum_tile_for(tile_for(dtype, capability, 132, False), capability)
            for out, accumulate in (("fp32", True), (name, False)):
                flags = {**launch.options(), "ACCUMULATE": accumulate, "DTYPE": triton.language.float32}
                flags |= {"left_inner_stride": 1, "right_column_stride": 1}
                del flags["DOT"], flags["DESCRIPTORS"]
                title = f"product {name} to {out}{', added' if accumulate else ''}"
                yield _product_case(title, triton_products.product_kernel, {"left": name, "right": name, "out": out}, flags, half)


def _matrices(name: str, launch: ProductLaunch) -> dict[str, str]:
    matrices = {"hidden": name, "weight": name, "bias": name, "gradient": name}
    if launch.descriptors:
        matrices["hidden"] = f"tensordesc<{name}[{launch.rows}, {launch.width}]>"
        matrices["weight"] = f"tensordesc<{name}[{launch.columns}, {launch.width}]>"
    return matrices


def _product_case(title: str, kernel: Any, pointers: dict[str, str], flags: dict[str, Any], matrix: bool) -> Case:
    warps, stages = flags.pop("num_warps"), flags.pop("num_stages")
    return Case(title, kernel, pointers, flags, warps, stages, matrix)


def _resources(name: str, target: int, cubin: bytes, shared: int) -> Resources:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _cuobjdump("-res-usage", path)
        listing = _cuobjdump("-sass", path)
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    counts = Counter(
        opcode for operation in re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)", listing, re.M) if (opcode := operation)
    )
    return Resources(
        name,
        target,
        numbers.get("REG", 0),
        numbers.get("STACK", 0),
        max(shared, numbers.get("SHARED", 0)),
        counts["STL"],
        counts["LDL"],
        {opcode: counts[opcode] for opcode in INTERESTING if counts[opcode]},
    )


def _cuobjdump(flag: str, path: Path) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([str(tool), flag, str(path)], capture_output=True, text=True, check=True).stdout
