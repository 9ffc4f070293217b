"""The kernels compiled to machine code without a GPU, with the specialisations of the run time: no spilled registers, few compilations."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
from settings import INTERPRETED

if INTERPRETED:
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)

SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}  # bytes that one block may have


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """benchmarks/kernels_compiled.py, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        patch.setenv("TRITON_DEFAULT_FP_FUSION", "0")  # as from Triton 3.10 on: every launch has to ask for it
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        import kernels_compiled

        yield kernels_compiled
        sys.modules.pop("kernels_compiled")


def check(harness: Any, target: int, launch: Any) -> Any:
    found = harness.compiled(launch, target)
    assert found.spills == found.stack == 0, (launch.name, found)
    assert 0 < found.registers <= 255 and found.registers * 32 * launch.options.num_warps <= 65_536, (launch.name, found)
    assert found.shared <= SHARED_MEMORY[target], (launch.name, found)
    assert found.fused  # products and sums in one instruction: what the instruction counts stand on
    if launch.kernel.__name__.startswith("product"):
        assert found.instructions.get(harness.MATRIX_INSTRUCTION[target], 0) > 0, (launch.name, found)
    return found


@pytest.mark.parametrize("target", [80, 90, 100, 120])
def test_row_kernels(harness: Any, target: int) -> None:
    """All vocabularies, N of 37, temperatures per row and one for all, with and without a bias, a cache, a softcap and a top."""
    launches = harness.launches(harness.described(target), thorough=False)
    rows = [launch for launch in launches.values() if not launch.kernel.__name__.startswith("product")]
    kernels = {launch.kernel.__name__ for launch in rows}
    assert kernels == {"statistics_kernel", "gradient_kernel", "threshold_kernel"}
    names = " ".join(launch.name for launch in rows)
    assert all(word in names for word in ("bias", "cached", "squash", "top", "mass", "odd"))
    assert {launch.divisible("logits_stride") for launch in rows} == {True, False}
    for launch in rows if target == 90 else rows[:6]:
        check(harness, target, launch)


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90, 100, 120])
def test_product_kernels(harness: Any, target: int) -> None:
    launches = harness.launches(harness.described(target), thorough=False)
    products = [launch for launch in launches.values() if launch.kernel.__name__.startswith("product")]
    assert {launch.constant("DESCRIPTORS") for launch in products} == ({True, False} if target >= 90 else {False})
    for launch in products:
        check(harness, target, launch)


def test_every_kernel_is_launched(harness: Any) -> None:
    import triton

    from aer_lightning.kernels import triton_gradient, triton_product, triton_statistics, triton_threshold

    modules = (triton_statistics, triton_gradient, triton_threshold, triton_product)
    kernels = {name for module in modules for name, value in vars(module).items() if isinstance(value, triton.JITFunction)}
    listed = {launch.kernel.__name__ for launch in harness.launches(harness.described(90), thorough=False).values()}
    assert {name for name in kernels if name.endswith("_kernel")} == listed


def test_instructions_for_an_element(harness: Any) -> None:
    """From bf16 logits on sm_90: 12 at the most in a forward pass and 18 backward, one exponential each, 16 bytes a load and a store."""
    with harness.recorded(harness.described(90)) as launches:
        harness.call_logits(8192, 151936)
    for launch in launches.values():
        found = check(harness, 90, launch)
        elements = launch.constant("BLOCK") // (32 * launch.options.num_warps)
        forward = launch.kernel.__name__ == "statistics_kernel"
        assert found.path <= elements * (12 if forward else 18), (launch.name, found.path / elements)
        assert elements <= found.instructions["MUFU"] <= elements + 8
        assert found.instructions["LDG"] <= elements // 8 + 10
        if not forward:
            assert found.instructions["STG"] == 2 * elements // 8  # and as many for a row without upstream gradient


def test_compilations_are_few_whatever_the_number_of_tokens(harness: Any) -> None:
    """50 numbers of tokens, divisible by 16 or not: what is compiled is what the first few need."""
    numbers = random.Random(0).sample(range(1, 3000), 50)
    for form, vocabulary in (("rows", 50257), ("rows", 1024), ("product", 50257)):
        counts = []
        with harness.recorded(harness.described(90)) as launches:
            for rows in numbers:
                harness.call(harness.described(90), rows, vocabulary, torch.bfloat16, form, memory=64, per_row=True)
                harness.call_logits(rows, vocabulary)
                counts.append(len(launches))
        assert counts[-1] <= 10, [launch.key for launch in launches.values()]


def test_precision_set_by_the_new_api_does_not_matter(harness: Any) -> None:
    """`allow_tf32` raises once `fp32_precision` was set; nothing reads it."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with harness.recorded(harness.described(90)) as launches:
            harness.call(harness.described(90), 40, 1000, torch.bfloat16, "product")
            harness.call(harness.described(90), 40, 1000, torch.float32)
        assert launches
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("vocabulary", [50257, 151669])
def test_blocks_have_no_odd_leading_dimension(harness: Any, vocabulary: int) -> None:
    """Logits, gradients and the cache begin each row at a multiple of 16, whatever the vocabulary."""
    with harness.recorded(harness.described(90)) as launches:
        for memory in (4, 64):
            harness.call(harness.described(90), 40, vocabulary, torch.bfloat16, memory=memory)
        harness.call(harness.described(90), 40, vocabulary, torch.bfloat16, "product")
    names = ("logits_stride", "gradient_stride", "cache_stride")
    assert all(launch.divisible(name) for launch in launches.values() for name in names if name in launch.signature)


def test_products_take_16_bit_operands_where_the_weight_is_fp32(harness: Any) -> None:
    """Outside autocast as well: the master weight is cast slice by slice, and its gradient is summed in fp32 in place."""
    from aer_lightning.kernels import plan, triton_backend, walk

    device = harness.described(90)
    made = plan(64, 32, 4000, torch.bfloat16, 2, device, weight_dtype=torch.float32, form="rows")
    head = walk.Head(torch.zeros(64, 32).bfloat16(), torch.zeros(4000, 32), None, torch.zeros(64, dtype=torch.long), 1.0, 0.0, made)
    seen: list[tuple[torch.dtype, ...]] = []
    with harness.recorded(device, product=lambda out, left, right, *_: seen.append((out.dtype, left.dtype, right.dtype))):
        walk.forward(triton_backend.engine(head, True, False), head, None, None)
        result = torch.empty(4000, 32)
        walk.backward(triton_backend.engine(head, True, True), head, None, torch.zeros(6, 64), (None, result, None), True)
    assert set(seen) == {(torch.float32, torch.bfloat16, torch.bfloat16)}
