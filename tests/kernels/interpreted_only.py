"""Cases of the kernels themselves, for the interpreter alone (started by test_interpreted.py)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from settings import Setting, close, compute, relatively_close

from aer_lightning.kernels import linear_token_stats, logits_token_stats, plan, reference, triton_backend, triton_product, walk
from aer_lightning.kernels.planning import INTERPRETER, Plan
from aer_lightning.kernels.statistics import top_threshold
from aer_lightning.kernels.triton_statistics import BLOCK


def made(rows: int, width: int, vocabulary: int, dtype: torch.dtype, form: str = "rows", **options: Any) -> Plan:
    return plan(rows, width, vocabulary, dtype, 64, INTERPRETER, form=form, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["rows", "product"])
def test_gradcheck_linear(form: str) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3), (34, 3), (34,))]
    temperature = torch.tensor([0.5, 2.0], dtype=torch.float64)
    blocks = dataclasses.replace(made(2, 3, 34, torch.float64, form, bias=True, cache=False), columns=16)
    assert torch.autograd.gradcheck(
        lambda hidden, weight, bias: linear_token_stats(hidden, weight, torch.tensor([1, 33]), bias, temperature, "triton", plan=blocks),
        inputs,
        fast_mode=True,
    )


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0, "return_lse": True}], ids=str)
def test_gradcheck_logits(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits: logits_token_stats(logits, torch.tensor([4, 0]), 0.7, "triton", **options), [logits])


def test_rows_are_split_where_there_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    device = dataclasses.replace(INTERPRETER, processors=4)
    monkeypatch.setattr(triton_backend, "device_of", lambda *_, **__: device)
    logits = torch.randn(2, 9 * BLOCK + 3)
    targets = torch.tensor([0, 9 * BLOCK + 2])
    splits: list[int] = []
    launch = triton_backend.launch_statistics
    monkeypatch.setattr(triton_backend, "launch_statistics", lambda out, *rest: (splits.append(out.shape[1]), launch(out, *rest)))
    ours = logits_token_stats(logits, targets, backend="triton")
    assert splits[0] > 4
    for value, wanted in zip(ours, reference.logits_token_stats(logits.double(), targets), strict=False):
        close(value, wanted, 1e-5)


@pytest.mark.parametrize(("share", "mass"), [(0.2, 1.0), (0.001, 1.0), (1.0, 0.3), (1.0, 0.95)])
def test_threshold_is_that_of_sorted_rows(share: float, mass: float) -> None:
    from aer_lightning.kernels.triton_threshold import launch_threshold

    torch.manual_seed(1)
    logits = torch.cat((3 * torch.randn(2, 300), torch.randn(1, 300).round(), torch.full((1, 300), -2.0)))  # ties at the edge
    logits[0, :250] = -torch.inf
    found = torch.empty(len(logits))
    launch_threshold(found, logits, None, torch.ones(1), None, share, torch.tensor([mass]) if mass < 1 else None)
    assert torch.equal(logits >= found[:, None], logits >= top_threshold(logits, 1.0, share, mass)[:, None])


@pytest.mark.parametrize("matrix", ["odd rows", "shifted", "expanded"])
def test_what_the_copy_engine_cannot_take_goes_by_pointers(matrix: str) -> None:
    hidden = {
        "odd rows": torch.randn(5, 17).half(),
        "shifted": torch.randn(5, 24).half()[:, 1:17],
        "expanded": torch.randn(1, 16).half().expand(5, 16),
    }[matrix]  # fmt: skip
    weight = torch.randn(40, hidden.shape[1]).half()
    blocks = made(5, hidden.shape[1], 40, torch.float16, "product")
    assert not triton_product._launch(hidden, weight, blocks)[2]["DESCRIPTORS"]
    assert triton_product._launch(hidden[:, :16].clone(), weight[:, :16].clone(), blocks)[2]["DESCRIPTORS"]
    ours = linear_token_stats(hidden, weight, torch.arange(5), backend="triton", plan=blocks)
    for value, wanted in zip(ours, reference.linear_token_stats(hidden.double(), weight.double(), torch.arange(5)), strict=False):
        close(value, wanted, 1e-5)


def test_a_strided_bias_is_read_as_it_lies() -> None:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(4, 8), torch.randn(70, 8), (3 * torch.randn(70, 2))[:, 1]
    expected = reference.linear_token_stats(hidden.double(), weight.double(), torch.arange(4), bias.double())
    for form in ("rows", "product"):
        blocks = made(4, 8, 70, torch.float32, form, bias=True)
        ours = linear_token_stats(hidden, weight, torch.arange(4), bias, backend="triton", plan=blocks)
        for value, wanted in zip(ours, expected, strict=False):
            close(value, wanted, 1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-5, 1.0, 1e6])
@pytest.mark.parametrize("form", ["rows", "product"])
@pytest.mark.parametrize("cache", [False, True])
def test_gradients_in_fp16_do_not_underflow(form: str, cache: bool, scale: float) -> None:
    """dz of 1e-5 p is below what fp16 holds; the gradients themselves are fp32 here, because the weight is, or checked where they fit."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(12, 16).half(), torch.randn(200, 16)
    targets, upstream = torch.arange(12), (scale * torch.randn(12), scale * torch.randn(12))
    blocks = made(12, 16, 200, torch.float16, form, cache=cache, weight_dtype=torch.float32)
    ours = compute(lambda h, w: linear_token_stats(h, w, targets, backend="triton", plan=blocks), [hidden, weight], upstream)
    expected = compute(
        lambda h, w: reference.linear_token_stats(h, w, targets),
        [hidden.double(), weight.half().double()],
        (upstream[0].double(), upstream[1].double()),
    )
    relatively_close(ours[2][1] / scale, expected[2][1] / scale, 3e-3)
    if scale >= 1e-5 and scale < 1e6:
        relatively_close(ours[2][0], expected[2][0], 3e-3 if scale == 1 else 2e-2)  # dX in fp16 has few digits at 1e-5


def test_the_cache_holds_distances_that_fp16_cannot() -> None:
    """Logits 1e5 apart: over the temperature, and cut off where e^x is 0 anyway; an offset common to all is in the tile's maximum."""
    hidden = torch.tensor([[1.0], [2.0], [0.5]]).half()
    weight = torch.cat((torch.full((150, 1), -60_000.0), 30_000 + 16 * torch.randn(150, 1))).half()
    blocks = made(3, 1, 300, torch.float16, cache=True)
    assert blocks.cached
    kept = walk.allocate_cache(hidden, weight, 3, blocks)
    targets = torch.tensor([200, 201, 10])
    head = walk.Head(hidden, weight, None, targets, 1.0, 0.0, blocks)
    walk.forward(triton_backend.engine(head, True, backward=False), head, walk.Cache(kept.logits[:, :300], kept.maximum), None)
    assert torch.isfinite(kept.logits[:, :300].float()).all()
    check_upstream = (torch.ones(3), torch.ones(3))
    ours = compute(
        lambda w: linear_token_stats(hidden.float().half(), w, targets, None, 1.0, "triton", plan=blocks), [weight], check_upstream
    )
    wanted = compute(lambda w: reference.linear_token_stats(hidden.double(), w, targets), [weight.double()], check_upstream)
    close(ours[0], wanted[0], 1e-2)
    relatively_close(ours[2][0], wanted[2][0], 3e-3)


def test_nothing_made_in_a_call_is_kept() -> None:
    """A tensor for a temperature seen first while a CUDA graph is captured would lie in the graph's memory."""
    import gc

    logits = torch.randn(3, 40)

    def alive() -> int:
        gc.collect()
        return sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor)

    logits_token_stats(logits, torch.arange(3), 0.9, "triton")
    before = alive()
    for temperature in (0.123, 0.456, 0.789):
        logits_token_stats(logits, torch.arange(3), temperature, "triton", softcap=temperature)
    assert alive() == before


def test_master_weights_in_every_form() -> None:
    for form in ("rows", "product"):
        setting = Setting("triton", form=form)
        hidden, weight = torch.randn(5, 16).half(), torch.randn(90, 16)
        ours = setting.linear(hidden, weight, torch.arange(5))
        expected = reference.linear_token_stats(hidden.double(), weight.half().double(), torch.arange(5))
        for value, wanted in zip(ours, expected, strict=False):
            close(value, wanted, 1e-5)
