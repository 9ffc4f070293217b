"""Cases of the kernels themselves, for the interpreter alone (started by test_interpreted.py)."""

from __future__ import annotations

import pytest
import torch
from settings import close, relatively_close

from aer_lightning.kernels import fused, linear_token_stats, logits_token_stats, partials, reference, triton_launch
from aer_lightning.kernels.launch import ROW_BLOCK, launch_of


@pytest.mark.parametrize("form", ["rows", "product"])
def test_gradcheck_linear(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "FORWARD", form)
    monkeypatch.setattr(fused, "BACKWARD", form)
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3), (34, 3), (34,))]
    temperature = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda hidden, weight, bias: linear_token_stats(hidden, weight, torch.tensor([1, 33]), bias, temperature, "triton"),
        inputs,
        fast_mode=True,
    )


def test_gradcheck_logits() -> None:
    logits = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits: logits_token_stats(logits, torch.tensor([4, 0]), 0.7, "triton"), [logits])


@pytest.mark.parametrize("splits", [1, 2, 5, 40])
@pytest.mark.parametrize("rows", [1, 37])
def test_merge(splits: int, rows: int) -> None:
    """Against the merge in torch; blocks without a finite logit among them."""
    generator = torch.Generator().manual_seed(splits)
    values = torch.randn(4, splits, rows, generator=generator)
    values[0] *= 20
    values[1] = values[1].abs() + 1
    values[:, 0, ::2] = 0 if splits > 1 else values[:, 0, ::2]
    if splits > 1:
        values[0, 0, ::2] = float("-inf")
    inverse = 0.5 + torch.rand(rows, generator=generator)
    close(fused.merge(values, inverse), partials.merge(values.double(), inverse.double()), 2e-5)
    for ours, wanted in zip(fused.finish(values, 0.7), partials.finish(values.double(), 0.7), strict=True):
        close(ours, wanted, 5e-5)


def test_rows_are_split_where_there_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launch, "processors", lambda device: 4)
    logits = torch.randn(2, 9 * ROW_BLOCK + 3)
    targets = torch.tensor([0, 9 * ROW_BLOCK + 2])
    assert fused.logits_partials(logits, targets, 1.0).shape[1] > 4
    for ours, wanted in zip(
        logits_token_stats(logits, targets, backend="triton"), reference.logits_token_stats(logits.double(), targets), strict=True
    ):
        close(ours, wanted, 1e-5)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_product(accumulate: bool, transposed: bool) -> None:
    """The product for devices whose library returns no fp32: 16-bit operands of any strides, an fp32 sum."""
    left, right = torch.randn(37, 45).half(), torch.randn(45, 70).half()
    if transposed:
        left, right = left.T.contiguous().T, right.T.contiguous().T
    out = torch.randn(37, 70)
    expected = left.double() @ right.double() + (out.double() if accumulate else 0)
    triton_launch.launch_product(out, left, right, accumulate, launch_of(left, left, torch.float16, False, False))
    relatively_close(out, expected, 1e-6)


def test_unaligned_rows_take_pointers() -> None:
    aligned, unaligned = torch.randn(5, 16).half(), torch.randn(5, 17).half()
    assert launch_of(aligned, aligned, torch.float16, False, False).descriptors
    assert not launch_of(unaligned, unaligned, torch.float16, False, False).descriptors
    assert not launch_of(torch.randn(5, 24).half()[:, 1:17], aligned, torch.float16, False, False).descriptors


def test_cache_is_centred_on_tiles() -> None:
    """At an offset that fp16 cannot hold, what is kept is the distance to the tile's maximum."""
    hidden = torch.full((3, 1), 1.0).half()
    weight = (30_000 + 16 * torch.randn(400, 1)).half()
    cache, tiles = fused.allocate_cache(hidden, weight, fused.CACHE_TILE["rows"] * 2)
    fused.linear_partials(hidden * 2, weight, None, torch.zeros(3, dtype=torch.long), 1.0, 1 << 20, cache, tiles)
    logits = 2 * weight.double().T[:, : cache.shape[1]]
    restored = cache.double() + tiles.double().repeat_interleave(fused.CACHE_TILE["rows"], 1)
    assert torch.isfinite(cache).all()
    assert (restored - logits).abs().max() <= (cache.double().abs() * 2**-11).max() + 1e-2
