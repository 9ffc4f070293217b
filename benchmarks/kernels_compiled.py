"""The Triton kernels as they are launched, compiled to machine code for NVIDIA GPUs on any machine.

The launchers run on CPU tensors; what they would launch is recorded with the specialisations that the run time would find out (divisibility
by 16, alignment, constants) and compiled for a target. Triton carries the assembler, and `cuobjdump`, which prints registers, stack and
instructions. It does not work in a process with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from aer_lightning.kernels import plan, triton_backend, walk
from aer_lightning.kernels.options import Options
from aer_lightning.kernels.planning import DEVICES, Device

TARGETS = (80, 90, 100, 120)
VOCABULARIES = (50257, 128256, 151936, 151669, 262144)
MATRIX_INSTRUCTION = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}  # mma.sync, wgmma, tcgen05.mma, mma.sync
INTERESTING = ("HGMMA", "UTCHMMA", "HMMA", "LDGSTS", "UTMALDG", "MUFU", "LDL", "STL", "LDG", "STG", "FFMA")


@dataclass(frozen=True)
class Launch:
    """A kernel as the run time would compile it."""

    kernel: JITFunction
    key: str
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: Any

    @property
    def name(self) -> str:
        """The kernel, what it was compiled for, and the dtypes of its pointers."""
        names = list(self.signature)
        flags = [names[path[0]].lower() for path, value in self.constants.items() if value is True]
        pointers = [kind.strip("*") for kind in self.signature.values() if kind.startswith(("*", "t"))]
        kinds = "/".join(dict.fromkeys(re.sub(r"tensordesc<(\w+).*", r"\1", kind) for kind in pointers))
        aligned = "" if all(self.divisible(name) for name in ("columns", "logits_stride") if name in names) else "odd"
        return " ".join(filter(None, [self.kernel.__name__.removesuffix("_kernel"), kinds, *flags, aligned]))

    def divisible(self, name: str) -> bool:
        """Whether an argument is known to be a multiple of 16."""
        return bool(self.attributes.get((list(self.signature).index(name),)))

    def constant(self, name: str) -> Any:
        """The value of a compile-time constant."""
        return self.constants[(list(self.signature).index(name),)]


@dataclass(frozen=True)
class Resources:
    """What one kernel takes on one target. Bytes; registers a thread."""

    registers: int
    stack: int
    shared: int
    instructions: dict[str, int] = field(default_factory=dict)
    path: int = 0  # instructions of a turn of the main loop in which nothing rare happens, or of the kernel if it has none
    fused: bool = True

    @property
    def spills(self) -> int:
        """Loads and stores of registers that had no room."""
        return self.instructions.get("STL", 0) + self.instructions.get("LDL", 0)


@contextmanager
def recorded(device: Device, product: Callable[..., None] = lambda *_: None) -> Iterator[dict[str, Launch]]:
    """Record what is launched within, as on `device`; nothing runs, and in the place of products `product`."""
    backend = make_backend(GPUTarget("cuda", device.capability, 32))
    found: dict[str, Launch] = {}

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        binder = create_function_from_signature(self.signature, self.params, backend)
        bound, specialization, options = binder(*args, **kwargs)
        key = f"{self.__name__} {specialization} {options}"
        if key not in found:
            options, signature, constants, attributes = self._pack_args(backend, kwargs, bound, specialization, options)
            found[key] = Launch(self, key, signature, constants, attributes, options)

    nothing = mock.patch.object
    with (
        nothing(JITFunction, "run", run),
        nothing(walk, "product", product),
        nothing(triton_backend, "device_of", lambda *_, **__: device),
    ):
        yield found


def call(
    device: Device, rows: int, vocabulary: int, dtype: torch.dtype = torch.bfloat16, form: str = "rows", *, width: int = 64,
    memory: float = 8,
    bias: bool = False, per_row: bool = False, entropy: bool = True, softcap: float = 0.0, top: tuple[float, float] | None = None,
) -> None:  # fmt: skip
    """Forward and backward of the fused statistics on one device that need not be there."""
    aligned = width * dtype.itemsize % 16 == 0
    made = plan(
        rows, width, vocabulary, dtype, memory, device, form=form, bias=bias, aligned=aligned, plain=not softcap and not top, top=bool(top)
    )  # type: ignore[arg-type]
    hidden, weight = torch.empty(rows, width, dtype=dtype), torch.empty(vocabulary, width, dtype=dtype)
    inverse = torch.ones(rows) if per_row else 1.0
    shift = torch.empty(vocabulary, dtype=dtype) if bias else None
    head = walk.Head(hidden, weight, shift, torch.zeros(rows, dtype=torch.long), inverse, 1 / softcap if softcap else 0.0, made)
    kept = None
    if made.cached:
        kept = walk.allocate_cache(hidden, weight, rows, made)
        kept = replace(kept, logits=kept.logits[:, :vocabulary])
    walk.forward(triton_backend.engine(head, entropy, backward=False), head, kept, top)
    factors = torch.zeros(8 if top else 6, rows)
    engine = triton_backend.engine(head, entropy, backward=True)
    walk.backward(engine, head, kept, factors, (torch.empty_like(hidden), torch.empty_like(weight), None), False)


def call_logits(rows: int, vocabulary: int, dtype: torch.dtype = torch.bfloat16, *, per_row: bool = False, **flags: Any) -> None:
    """Forward and backward from logits."""
    options = Options("triton", **flags)
    logits = torch.empty(rows, vocabulary, dtype=dtype)
    targets, inverse = torch.zeros(rows, dtype=torch.long), torch.ones(rows) if per_row else 1.0
    triton_backend.logits_statistics(logits, targets, inverse, options.squash, options.entropy, options.top)
    triton_backend.logits_gradient(logits, logits, targets, torch.zeros(8 if options.top else 6, rows), options.squash)


def launches(device: Device, thorough: bool) -> dict[str, Launch]:
    """Every kernel with the specialisations that the backend launches on a device; some of them if not `thorough`."""
    dtypes = (torch.bfloat16, torch.float16, torch.float32) if thorough else (torch.bfloat16,)
    rows = 37
    with recorded(device) as found:
        for vocabulary in VOCABULARIES:
            for dtype in dtypes:
                call_logits(rows, vocabulary, dtype)
                call(device, rows, vocabulary, dtype, memory=40 if dtype == torch.float32 else 24)
                call(device, rows, vocabulary, dtype, memory=2, bias=True, per_row=True)
        for dtype in dtypes:
            call_logits(rows, 151936, dtype, softcap=30.0, entropy=False)
            call_logits(rows, 151669, dtype, share=0.2, per_row=True)
            call_logits(rows, 151936, dtype, mass=0.9)
            call(device, rows, 151936, dtype, softcap=30.0)
            call(device, rows, 50257, dtype, memory=40, top=(1.0, 0.5))
        cases = [(True, True, 64), (False, False, 64), (True, True, 123)] if thorough else []
        for dtype in (torch.bfloat16, torch.float16) if thorough else (torch.bfloat16,):
            for bias, entropy, width in [(False, True, 64), (False, True, 123), *cases]:
                call(device, 300, 50257, dtype, "product", width=width, bias=bias, per_row=bias, entropy=entropy)
    return found


def described(target: int) -> Device:
    """A device of compute capability `target` / 10."""
    return replace(DEVICES["H100"], capability=target)


def compiled(launch: Launch, target: int) -> Resources:
    """Compile to machine code for compute capability `target` / 10 and read what it takes."""
    source = ASTSource(launch.kernel, launch.signature, launch.constants, launch.attributes)
    result = triton.compile(source, target=GPUTarget("cuda", target, 32), options=launch.options.__dict__)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(result.asm["cubin"])
        usage, listing = _cuobjdump("-res-usage", path), _cuobjdump("-sass", path)
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED):(\d+)", usage)}
    rows = re.findall(r"^\s+/\*([0-9a-f]+)\*/\s+((?:@!?U?P\w+\s+)?[A-Z0-9_.]+[^;]*);", listing, re.M)
    lines = [(int(address, 16), re.sub(r"^@!?U?P\w+\s+", "", text)) for address, text in rows]
    counts = Counter(re.split(r"[.\s]", text)[0] for _, text in lines)
    return Resources(
        numbers.get("REG", 0),
        numbers.get("STACK", 0),
        max(int(result.metadata.shared), numbers.get("SHARED", 0)),
        {name: counts[name] for name in INTERESTING if counts[name]},
        _main_loop(lines),
        launch.options.enable_fp_fusion,
    )


def _main_loop(lines: list[tuple[int, str]]) -> int:
    """Instructions that a turn of the longest loop takes if no rare case arises (branches forward are taken); all without a loop."""
    longest = 0
    for number, (address, text) in enumerate(lines):
        goal = _jump(text)
        if goal is not None and goal < address:
            body = [line for line in lines[: number + 1] if line[0] >= goal]
            longest = max(longest, _straight(body))
    return longest or _straight([line for line in lines if not line[1].startswith("NOP")])


def _straight(body: list[tuple[int, str]]) -> int:
    places = {address: place for place, (address, _) in enumerate(body)}
    count = place = 0
    while place < len(body):
        address, text = body[place]
        goal = _jump(text)
        count += 1
        place = places[goal] if goal is not None and goal > address and goal in places else place + 1
    return count


def _jump(text: str) -> int | None:
    found = re.match(r"BRA.*\b0x([0-9a-f]+)", text)
    return int(found[1], 16) if found else None


def _cuobjdump(flag: str, path: Path) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([str(tool), flag, str(path)], capture_output=True, text=True, check=True).stdout
