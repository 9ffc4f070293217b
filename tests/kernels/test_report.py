"""The kernels compiled to machine code without a GPU: for three generations, without spilled registers, with their matrix instructions."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="triton is not installed")
from settings import INTERPRETED

if INTERPRETED:
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)
from aer_lightning.kernels.report import MATRIX_INSTRUCTION, TARGETS, Case, Resources, cases, compile_case

SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}  # bytes that one block may have


def covered(name: str) -> bool:
    """fp16 differs from bf16 in the conversions alone, and fp32 has one tile for all; `make kernel-report` compiles those too."""
    if "product" in name and "fp32" in name:
        return not any(word in name for word in ("bias", "cached", "logprob only"))
    return "fp16" not in name or "from cache" in name


CASES = [(target, case) for target in TARGETS for case in cases(target) if covered(case.name)]


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    import os

    os.environ["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))


@pytest.mark.parametrize(("target", "case"), CASES, ids=[f"sm_{target}-{case.name}" for target, case in CASES])
def test_machine_code(target: int, case: Case) -> None:
    resources: Resources = compile_case(case, target)
    assert resources.spill_stores == resources.spill_loads == 0, resources
    assert resources.stack == 0, resources
    assert 0 < resources.registers <= 255
    assert resources.registers * 32 * case.warps <= 65_536  # at least one block fits on a multiprocessor
    assert resources.shared <= SHARED_MEMORY[target]
    if case.matrix:
        assert resources.instructions.get(MATRIX_INSTRUCTION[target], 0) > 0, resources
    else:
        # One exp2 an element: not two, which a running maximum for each lane would cost. (The logarithm and divisions are a few more.)
        elements = case.constants.get("BLOCK", 0) // (32 * case.warps)
        assert elements <= resources.instructions["MUFU"] <= elements + 16 or "product" in case.name or "merge" in case.name
    if case.name.startswith("gradient"):
        # 16 bytes a store: BLOCK / threads elements of 2 or 4 bytes.
        size = 4 if "to fp32" in case.name else 2
        assert resources.instructions["STG"] * 16 <= 2 * elements * size


def test_every_kernel_is_listed() -> None:
    """A kernel that is added must be compiled here as well."""
    import triton

    from aer_lightning.kernels import triton_products, triton_rows

    kernels = {
        name for module in (triton_rows, triton_products) for name, value in vars(module).items() if isinstance(value, triton.JITFunction)
    }
    listed = {case.kernel.fn.__name__ for _, case in CASES}
    assert {name for name in kernels if name.endswith("_kernel")} == listed
