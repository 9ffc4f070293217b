"""Faults that were there once, or could be: dtypes, scales, temperatures and probabilities at their edges, on every backend."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from settings import IGNORE, INTERPRETED, Setting, close, compute, linear_settings, logits_settings, relatively_close
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aer_lightning.errors import ConfigError, DataError
from aer_lightning.kernels import linear_token_stats, logits_token_stats, reference, walk
from aer_lightning.kernels.options import Options

F64 = torch.float64


@logits_settings
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_on_an_ignored_row_is_none(setting: Setting, bad: float) -> None:
    """Neither checked nor used; results and gradients of the others are as without the row."""
    torch.manual_seed(0)
    logits = torch.randn(5, 60).to(setting.device).requires_grad_()
    targets = torch.tensor([1, IGNORE, 3, 4, 5], device=setting.device)
    temperature = torch.tensor([0.5, bad, 1.0, 2.0, 0.7], device=setting.device)
    results = setting.logits(logits, targets, temperature, ignore_index=IGNORE)
    gradient = torch.autograd.grad(results[0].sum() + results[1].sum(), logits)[0]
    kept = targets != IGNORE
    leaf = logits.detach()[kept].double().requires_grad_()
    wanted = reference.logits_token_stats(leaf, targets[kept], temperature[kept])
    close(results[0][kept].detach(), wanted[0].detach(), 1e-5)
    relatively_close(gradient[kept], torch.autograd.grad(wanted[0].sum() + wanted[1].sum(), leaf)[0], 1e-5)
    assert not gradient[1].any() and results[0][1] == results[1][1] == 0
    with pytest.raises(DataError, match="temperature: row 1 is not above 0 and finite"):
        setting.logits(logits, targets.clamp(min=0), temperature)


@logits_settings
@pytest.mark.parametrize("gap", [16.0, 20.0, 30.0])
@pytest.mark.parametrize("target", [0, 2])
def test_near_certainty_every_digit_counts(setting: Setting, gap: float, target: int) -> None:
    """1 - p is 1e-7 to 1e-13: results and gradients keep their relative accuracy, where 1 - e^l and ln of a sum of 1 + 1e-9 have none."""
    logits = torch.zeros(2, 40).to(setting.device)
    logits[:, 0] = gap
    targets = torch.tensor([target, target], device=setting.device)
    for upstream in ((torch.tensor([1.0, 2.0]), None), (None, torch.tensor([1.0, -1.0]))):
        ours = compute(lambda z: setting.logits(z, targets), [logits], tuple(None if g is None else g.to(logits) for g in upstream))  # type: ignore[arg-type]
        leaf = logits.cpu().double().requires_grad_()
        rest = (leaf[:, 1:] - leaf[:, :1]).exp().sum(1)  # all in differences to the maximum
        logprob = leaf[:, target] - leaf[:, 0] - torch.log1p(rest)
        distance = leaf - leaf[:, :1]
        entropy = torch.log1p(rest) - (distance * distance.exp()).sum(1) / (1 + rest)
        torch.testing.assert_close(ours[0].cpu().double(), logprob.detach(), rtol=1e-5, atol=0)
        torch.testing.assert_close(ours[1].cpu().double(), entropy.detach(), rtol=1e-5, atol=0)
        value, given_ = (logprob, upstream[0]) if upstream[0] is not None else (entropy, upstream[1])
        wanted = torch.autograd.grad((value * given_).sum(), leaf)[0]
        relatively_close(ours[2][0].double() / wanted.norm(), wanted / wanted.norm(), 2e-5)
        if target == 0 and upstream[0] is not None:
            exact = (upstream[0].double() * rest / (1 + rest)).detach()
            torch.testing.assert_close(ours[2][0][:, 0].cpu().double(), exact, rtol=2e-5, atol=0)


@pytest.mark.skipif(INTERPRETED, reason="processors flush them or not; on a CPU products of them take many times as long")
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_gradients_hold_no_denormal_numbers(scale: float) -> None:
    torch.manual_seed(0)
    logits = 40 * torch.randn(20, 500)
    targets = logits.argmax(1)
    upstream = (torch.full((20,), scale), None)
    ours = compute(lambda z: logits_token_stats(z, targets, backend="torch"), [logits], upstream)[2][0]
    wanted = compute(lambda z: reference.logits_token_stats(z, targets), [logits.double()], upstream)[2][0]
    relatively_close(ours / scale, wanted / scale, 1e-5)
    assert not ((ours != 0) & (ours.abs() < torch.finfo(torch.float32).tiny)).any() and (ours == 0).any()


def test_library_products_are_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a 16-bit product may not be added up in 16 bit, and the setting is as it was afterwards."""
    matmul = torch.backends.cuda.matmul
    seen: list[tuple[Any, Any]] = []
    original = walk.product
    monkeypatch.setattr(walk, "exact_reductions", walk.exact_reductions)
    with walk.exact_reductions(torch.bfloat16):
        seen.append((matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction))
    assert seen == [(False, False)]
    assert matmul.allow_bf16_reduced_precision_reduction and matmul.allow_fp16_reduced_precision_reduction
    seen.clear()
    entered: list[torch.dtype] = []

    def watched(operand: torch.dtype) -> Any:
        entered.append(operand)
        return walk_exact(operand)

    walk_exact = walk.exact_reductions
    monkeypatch.setattr(walk, "exact_reductions", watched)
    monkeypatch.setattr(walk, "product", original)
    weight = torch.randn(300, 8).bfloat16().requires_grad_()
    linear_token_stats(torch.randn(4, 8).bfloat16(), weight, torch.arange(4), backend="torch")[0].sum().backward()
    assert len(entered) == 1


@linear_settings
def test_a_second_pack_adds_into_an_fp32_gradient(setting: Setting) -> None:
    """No tensor of the size of the weight is made for it: `.grad` stays the same memory; `autograd.grad` and hooks see what they did."""
    torch.manual_seed(0)
    weight = torch.randn(90, 16, device=setting.device).requires_grad_()
    packs = [torch.randn(5, 16, device=setting.device).bfloat16().requires_grad_() for _ in range(3)]
    targets = torch.arange(5, device=setting.device)
    wanted = torch.zeros(90, 16, dtype=F64)
    place = 0
    for number, hidden in enumerate(packs):
        results = setting.linear(hidden, weight, targets)
        alone = torch.autograd.grad(results[0].sum() + results[1].sum(), weight, retain_graph=True)[0]
        wanted += alone.double().cpu()
        before = None if weight.grad is None else weight.grad.clone()
        (results[0].sum() + results[1].sum()).backward()
        assert weight.grad is not None and weight.grad.dtype == torch.float32
        assert number == 0 or weight.grad.data_ptr() == place
        assert before is None or not torch.equal(before, weight.grad)
        place = weight.grad.data_ptr()
    relatively_close(weight.grad, wanted, 1e-6)
    seen: list[Tensor] = []
    handle = weight.register_hook(seen.append)
    setting.linear(packs[0], weight, targets)[0].sum().backward()
    handle.remove()
    assert len(seen) == 1 and seen[0].shape == weight.shape, "a hook still gets the gradient"


@pytest.mark.parametrize("case", ["two heads", "tied", "again", "another thread", "view", "inputs"])
def test_what_is_added_into_a_gradient_is_what_autograd_would_add(case: str) -> None:
    """With a `.grad` there: as without it, plus what was there, whatever else the graph does with the weight."""
    torch.manual_seed(0)
    values, hidden, targets = torch.randn(300, 16), torch.randn(5, 16), torch.arange(5)

    def run(start: Tensor | None) -> Tensor:
        weight = values.clone().requires_grad_()
        if start is not None:
            weight.grad = start
        loss = torch.stack(linear_token_stats(hidden, weight, targets, backend="torch")).sum()
        if case == "two heads":
            loss = loss + linear_token_stats(hidden * 2, weight, targets, backend="torch", softcap=3.0)[1].sum()
        if case == "tied":
            loss = loss + torch.nn.functional.embedding(targets, weight).square().sum()
        if case == "another thread":
            thread = threading.Thread(target=loss.backward)
            thread.start()
            thread.join()
        else:
            loss.backward(retain_graph=case == "again", inputs=[weight] if case == "inputs" else None)
        if case == "again":
            loss.backward()
        assert weight.grad is not None
        return weight.grad

    held = torch.randn(2, 300, 16)
    start = held[0].clone() if case != "view" else held[0]
    before, other = start.clone(), held[1].clone()
    relatively_close(run(start) - before, run(None).double(), 1e-5)
    assert torch.equal(held[1], other)


def test_gradients_reduced_by_ddp_are_whole(tmp_path: Any) -> None:
    """Packs without synchronisation, then one with it: the reduction sees what was added into `.grad`."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:

        class Head(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.weight = torch.nn.Parameter(torch.randn(90, 16))

            def forward(self, hidden: Tensor) -> Tensor:
                return linear_token_stats(hidden, self.weight, torch.arange(5), backend="torch")[0].sum()

        head = Head()
        wrapped = torch.nn.parallel.DistributedDataParallel(head)
        packs = [torch.randn(5, 16) for _ in range(3)]
        reduced: list[Tensor] = []
        wrapped.register_comm_hook(None, lambda state, bucket: (reduced.append(bucket.buffer().clone()), dist.all_reduce(
            bucket.buffer(), async_op=True).get_future().then(lambda future: future.value()[0]))[1])  # fmt: skip
        for hidden in packs[:-1]:
            with wrapped.no_sync():
                wrapped(hidden).backward()
        wrapped(packs[-1]).backward()
        alone = Head()
        sum(alone(hidden) for hidden in packs).backward()  # type: ignore[union-attr]
        assert len(reduced) == 1
        relatively_close(reduced[0].view(90, 16), alone.weight.grad.double(), 1e-5)  # type: ignore[union-attr]
        relatively_close(head.weight.grad, alone.weight.grad.double(), 1e-5)  # type: ignore[arg-type, union-attr]
    finally:
        dist.destroy_process_group()


def test_in_place_gradients_are_refused_where_they_would_be_wrong() -> None:
    leaf = torch.randn(3, 20, requires_grad=True)
    with pytest.raises(ConfigError, match="inplace_backward: the logits are a leaf"):
        logits_token_stats(leaf, torch.arange(3), inplace_backward=True)
    with pytest.raises(ConfigError, match="inplace_backward: the logits are expanded"):
        logits_token_stats((leaf[:1] * 2).expand(3, 20), torch.arange(3), inplace_backward=True)


class Poisoned(TorchDispatchMode):
    """Memory that is made without a value holds NaN, as it may anywhere."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if "empty" in function.__name__ and isinstance(result, Tensor):
            result.fill_(torch.nan if result.is_floating_point() else 111)
        return result


@linear_settings
@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32] if INTERPRETED else [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{"ignore_index": 7}, {"softcap": 3.0}, {"entropy_top_p": 0.5}][: 2 if INTERPRETED else 3], ids=str)
def test_nothing_is_read_before_it_is_written(setting: Setting, cache: bool, dtype: torch.dtype, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    hidden, weight = (torch.randn(rows, 12).to(setting.device, dtype).requires_grad_() for rows in (9, 70))
    bias, targets = torch.randn(70, device=setting.device).requires_grad_(), torch.arange(9, device=setting.device)
    found = []
    for mode in (nullcontext(), Poisoned()):
        with mode:
            results = setting.linear(hidden, weight, targets, bias, cache=cache, memory_mb=0.05, **options)
            kept = [value for value in results if value is not None]
            gradients = torch.autograd.grad(sum((value * value).sum() for value in kept), (hidden, weight, bias))
        found.append([*kept, *gradients])
    for plain, poisoned in zip(*found, strict=True):
        assert torch.equal(plain, poisoned)


DTYPES = {torch.float32: 2e-5, torch.bfloat16: 4e-3, torch.float16: 4e-3}


@linear_settings
@settings(max_examples=6 if INTERPRETED else 60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 33), st.integers(2, 130 if INTERPRETED else 400)),
    dtypes=st.sampled_from([(a, b) for a in DTYPES for b in DTYPES]),
    each=st.sampled_from([None, 1.0, 0.6]),
    softcap=st.sampled_from([None, None, 5.0]),
    absent=st.sampled_from([None, None, 0, 1]),
    scale=st.sampled_from([1e-30, 1e-12, 1e-5, 1.0, 1e6]),
    offset=st.sampled_from([0.0, 300.0, -3000.0]),
    bias=st.booleans(),
    frozen=st.sampled_from([(), (0,), (1,)]),
    ignored=st.booleans(),
    strided=st.booleans(),
    cache=st.booleans(),
    seed=st.integers(0, 100),
)
def test_any_problem(
    setting: Setting, shape: tuple[int, int, int], dtypes: tuple[torch.dtype, torch.dtype], each: float | None, softcap: float | None,
    absent: int | None, scale: float, offset: float, bias: bool, frozen: tuple[int, ...], ignored: bool, strided: bool, cache: bool,
    seed: int,
) -> None:  # fmt: skip
    """Shapes, strides, pairs of dtypes, an offset common to the row, temperatures per row or for all (`each`), a softcap, upstream
    gradients that are tiny, huge or absent, ignored rows and frozen inputs."""
    rows, width, vocabulary = shape
    generator = torch.Generator().manual_seed(seed)
    step = 2 if strided else 1
    hidden = torch.randn(rows, width * step, generator=generator).to(dtypes[0])[:, ::step].to(setting.device)
    weight = (torch.randn(vocabulary, width * step, generator=generator) / width**0.5).to(dtypes[1])[:, ::step].to(setting.device)
    shift = (offset + torch.randn(vocabulary * step, generator=generator))[::step].to(setting.device) if bias else None
    targets = torch.randint(0, vocabulary, (rows,), generator=generator).to(setting.device)
    rows_temperature = (0.5 + 2 * torch.rand(rows, generator=generator)).to(setting.device)
    temperature = rows_temperature if each is None else each
    ignore = None
    if ignored:
        targets[0], rows_temperature[0], ignore = IGNORE, -1.0, IGNORE
    upstream = tuple(
        None if number == absent else (scale * torch.randn(rows, 2, generator=generator))[:, number].to(setting.device) for number in (0, 1)
    )
    leaves = [value for number, value in enumerate((hidden, weight)) if number not in frozen]

    def run(function: Any, values: list[Tensor], first: Tensor, second: Tensor, **more: Any) -> Any:
        def call(*given_: Tensor) -> Any:
            left = list(given_)
            matrices = [left.pop(0) if number not in frozen else fixed for number, fixed in enumerate((first, second))]
            return function(*matrices, targets, more.get("bias"), temperature, ignore_index=ignore, **more["options"])

        return compute(call, values, upstream)  # type: ignore[arg-type]

    capped = {} if softcap is None else {"softcap": softcap}
    ours = run(setting.linear, leaves, hidden, weight, bias=shift, options={"cache": cache, "memory_mb": 1, **capped})
    rounded = weight.to(dtypes[0]).double()
    exact = [value for number, value in enumerate((hidden.double(), rounded)) if number not in frozen]
    plain = {"options": Options("reference", softcap=softcap or 0.0)}
    expected = run(
        reference.linear_token_stats, exact, hidden.double(), rounded, bias=None if shift is None else shift.double(), options=plain
    )
    accuracy = 1e-5 + abs(offset) * 6e-7 * (1 if bias else 0)  # fp32 logits near 3000 lie 2.4e-4 apart
    close(ours[0], expected[0], accuracy)
    close(ours[1], expected[1], accuracy)
    for gradient, wanted in zip(ours[2], expected[2], strict=True):
        assert not ignored or gradient.shape[0] != rows or 0 in frozen or not gradient[0].any() or gradient is not ours[2][0]
        if gradient.dtype == torch.float16 and (scale < 1e-4 or scale > 1):
            continue  # what the gradient's own dtype does not hold
        error = (gradient.double().cpu() / scale - wanted.cpu() / scale).norm()
        assert error <= (DTYPES[dtypes[0]] + accuracy) * (0.01 + (wanted / scale).norm()), float(error)


@logits_settings
@settings(max_examples=6 if INTERPRETED else 60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 130 if INTERPRETED else 600)),
    dtype=st.sampled_from(list(DTYPES)),
    each=st.sampled_from([None, 1.0, 0.6]),
    options=st.sampled_from([{}, {}, {"softcap": 5.0}, {"entropy_top_p": 0.7}, {"entropy_top_share": 0.3}, {"logit_scale": 0.4}]),
    absent=st.sampled_from([None, None, 0, 1]),
    scale=st.sampled_from([1e-30, 1e-12, 1.0, 1e6]),
    offset=st.sampled_from([0.0, 1e4, -1e4]),
    ignored=st.booleans(),
    layout=st.sampled_from(["rows", "every second", "columns"]),
    in_place=st.booleans(),
    seed=st.integers(0, 100),
)
def test_any_logits(
    setting: Setting, shape: tuple[int, int], dtype: torch.dtype, each: float | None, options: dict[str, float], absent: int | None,
    scale: float, offset: float, ignored: bool, layout: str, in_place: bool, seed: int,
) -> None:  # fmt: skip
    """The same from logits, whatever their layout, with a gradient that replaces them."""
    rows, columns = shape
    generator = torch.Generator().manual_seed(seed)
    made = (3 * torch.randn(rows, columns, generator=generator) + offset).to(setting.device, dtype)
    if layout == "every second":
        logits = torch.stack((made, torch.full_like(made, torch.nan)), 2).flatten(1)[:, ::2]
    else:
        logits = made.T.contiguous().T if layout == "columns" else made
    targets = torch.randint(0, columns, (rows,), generator=generator).to(setting.device)
    temperature = (0.5 + 2 * torch.rand(rows, generator=generator)).to(setting.device)
    if ignored:
        targets[0], temperature[0] = IGNORE, -1.0
    upstream = tuple(None if number == absent else (scale * torch.randn(rows, generator=generator)).to(setting.device) for number in (0, 1))
    shared: dict[str, Any] = {"ignore_index": IGNORE if ignored else None}

    def ours(leaf: Tensor) -> Any:
        # A copy that is no leaf, in the same layout: what a model's head hands over.
        return setting.logits(
            leaf * 1 if in_place else leaf, targets, temperature if each is None else each, inplace_backward=in_place, **shared, **options
        )

    def exact(leaf: Tensor) -> Any:
        values = Options("reference", softcap=options.get("softcap", 0.0), scale=options.get("logit_scale", 1.0),
                         share=options.get("entropy_top_share", 1.0), mass=options.get("entropy_top_p", 1.0))  # fmt: skip
        return reference.logits_token_stats(leaf, targets, temperature if each is None else each, shared["ignore_index"], values)

    found, expected = compute(ours, [logits], upstream), compute(exact, [logits.double()], upstream)  # type: ignore[arg-type]
    close(found[0], expected[0], 2e-5)
    close(found[1], expected[1], 2e-5)
    gradient, wanted = found[2][0].double().cpu() / scale, expected[2][0].cpu() / scale
    assert not ignored or not gradient[0].any()
    if dtype == torch.float16 and scale != 1.0:
        return  # what the gradient's own dtype does not hold
    assert (gradient - wanted).norm() <= DTYPES[dtype] * (0.01 + wanted.norm())
