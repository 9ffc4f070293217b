"""`linear_token_stats` against plain torch in fp64, on every backend."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from settings import IGNORE, INTERPRETED, Setting, close, compute, linear_settings, not_interpreted, relatively_close

from aer_lightning.kernels import Plan, linear_token_stats, plan, reference
from aer_lightning.kernels.planning import INTERPRETER

SHAPES = [(20, 72, 507), (1, 123, 1003), (5, 40, 17)]
LARGE = [(37, 123, 50257), (3, 72, 151936), (2, 72, 152064), (9, 2880, 600)]
V = 150 if INTERPRETED else 520
ABSOLUTE = 1e-5
RELATIVE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 3e-3, torch.float64: 1e-12}


def problem(
    rows: int, width: int, vocabulary: int, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) * (2 / width**0.5)
    return {
        "hidden": hidden.to(device, dtype),
        "weight": weight.to(device, dtype),
        "bias": torch.randn(vocabulary, generator=generator).to(device, dtype),
        "targets": torch.randint(0, vocabulary, (rows,), generator=generator).to(device),
        "temperature": (0.5 + torch.rand(rows, generator=generator)).to(device),
        "upstream": (torch.randn(rows, generator=generator).to(device), torch.randn(rows, generator=generator).to(device)),
    }


def plan_of(setting: Setting, rows: int, width: int, vocabulary: int, dtype: torch.dtype = torch.float32, cache: bool = True) -> Plan:
    device = INTERPRETER if INTERPRETED else torch.device(setting.device)
    form = "torch" if setting.backend == "torch" else setting.form
    return plan(rows, width, vocabulary, dtype, 64, device, form=form, bias=True, cache=cache)  # type: ignore[arg-type]


def check(
    setting: Setting,
    data: dict[str, Any],
    bias: bool = True,
    temperature: Any = None,
    ignore: Any = None,
    direct: bool = False,
    **options: Any,
) -> None:
    """Compare results and gradients with those of plain torch in fp64 on the same inputs."""
    names = ["hidden", "weight", *(["bias"] if bias else [])]
    inputs = [data[name] for name in names]
    temperature = data["temperature"] if temperature is None else temperature

    def ours(hidden: Any, weight: Any, bias: Any = None) -> Any:
        if direct:
            return linear_token_stats(hidden, weight, data["targets"], bias, temperature, setting.backend, ignore_index=ignore, **options)
        return setting.linear(hidden, weight, data["targets"], bias, temperature, ignore_index=ignore, **options)

    def plain(hidden: Any, weight: Any, bias: Any = None) -> Any:
        return reference.linear_token_stats(hidden, weight, data["targets"], bias, temperature, ignore)[:2]

    dtype = inputs[0].dtype
    logprob, entropy, gradients = compute(ours, inputs, data["upstream"])
    expected = compute(plain, [value.double() for value in inputs], data["upstream"])
    assert logprob.dtype == entropy.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Where fp32 products over a large vocabulary cancel, torch in fp32 is no closer; then twice its error is the bound.
    torch_logprob, torch_entropy, torch_gradients = compute(plain, [value.float() for value in inputs], data["upstream"])
    close(logprob, expected[0], max(ABSOLUTE, 2 * float((torch_logprob - expected[0]).abs().max())))
    close(entropy, expected[1], max(ABSOLUTE, 2 * float((torch_entropy - expected[1]).abs().max())))
    for gradient, wanted, value, of_torch in zip(gradients, expected[2], inputs, torch_gradients, strict=True):
        assert gradient.dtype == value.dtype
        torch_error = float((of_torch - wanted).norm() / wanted.norm().clamp_min(1e-12))
        relatively_close(gradient, wanted, max(RELATIVE[dtype], 2 * torch_error if dtype == torch.float32 else 0.0))


@linear_settings
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(setting: Setting, shape: tuple[int, int, int]) -> None:
    check(setting, problem(*shape, device=setting.device))


@not_interpreted
@linear_settings
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_large_shapes(setting: Setting, shape: tuple[int, int, int]) -> None:
    check(setting, problem(*shape, device=setting.device), bias=False, temperature=0.7, memory_mb=8)


@linear_settings
@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(setting: Setting, dtype: torch.dtype, cache: bool) -> None:
    """Also with many blocks: a gradient of the weight summed in bf16 over blocks of tokens would be off by 1e-2 and more."""
    check(setting, problem(18, 40, 200, dtype, setting.device), temperature=1.3, cache=cache, memory_mb=0.02)


@linear_settings
@pytest.mark.parametrize("workspace", [0.02, 0.05, 64])
@pytest.mark.parametrize("cache", [False, True])
def test_workspace(setting: Setting, workspace: float, cache: bool) -> None:
    check(setting, problem(19, 24, V + 180, device=setting.device), memory_mb=workspace, cache=cache)


@linear_settings
@pytest.mark.parametrize("columns", [16, 48])
def test_targets_beside_the_edge_of_a_block(setting: Setting, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block narrower than a tile of the product: the target of the next block lies where this one's padding is."""
    data = problem(12, 16, 130, device=setting.device)
    data["targets"] = torch.tensor([0, 15, 16, 17, 31, 32, 47, 48, 49, 95, 96, 129], device=setting.device)
    made = plan_of(setting, 12, 16, 130, cache=False)
    check(setting, data, plan=dataclasses.replace(made, columns=columns), direct=True)


@linear_settings
@pytest.mark.parametrize("two_passes", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_blocks_of_rows(setting: Setting, dtype: torch.dtype, two_passes: bool) -> None:
    """More rows than one block holds: the slices of the weight's gradient are sums over blocks, in fp32."""
    made = dataclasses.replace(plan_of(setting, 40, 24, V, dtype, cache=False), rows=16, columns=64, two_passes=two_passes)
    check(setting, problem(40, 24, V, dtype, setting.device), plan=made, direct=True)
    ignored = problem(40, 24, V, dtype, setting.device)
    ignored["targets"][[0, 17, 18, 39]] = IGNORE
    check(setting, ignored, ignore=IGNORE, plan=made, direct=True)


@linear_settings
@pytest.mark.parametrize("memory", [0.02, 64])
def test_master_weights(setting: Setting, memory: float) -> None:
    """bf16 hidden states and an fp32 weight: products in bf16, of slices of the weight; its gradient is an unrounded fp32 sum."""
    data = problem(7, 32, 130, device=setting.device)
    hidden, rounded = data["hidden"].bfloat16(), data["weight"].bfloat16()
    expected = compute(
        lambda hidden, weight: reference.linear_token_stats(hidden, weight, data["targets"]),
        [hidden.double(), rounded.double()],
        data["upstream"],
    )
    for options in ({}, {"weight_cast": rounded}):
        logprob, entropy, (grad_hidden, grad_weight) = compute(
            lambda hidden, weight, options=options: setting.linear(hidden, weight, data["targets"], memory_mb=memory, **options),
            [hidden, data["weight"]],
            data["upstream"],
        )
        close(logprob, expected[0], ABSOLUTE)
        close(entropy, expected[1], ABSOLUTE)
        assert (grad_hidden.dtype, grad_weight.dtype) == (torch.bfloat16, torch.float32)
        relatively_close(grad_hidden, expected[2][0], 3e-3)
        relatively_close(grad_weight, expected[2][1], 3e-3 if setting.device == "cuda" else 1e-5)


@linear_settings
@pytest.mark.parametrize("width", [1, 400])
def test_no_rows(setting: Setting, width: int) -> None:
    hidden = torch.zeros(0, 8, device=setting.device, requires_grad=True)
    weight = torch.ones(width, 8, device=setting.device, requires_grad=True)
    logprob, entropy = setting.linear(hidden, weight, torch.zeros(0, dtype=torch.long, device=setting.device))
    (logprob.sum() + entropy.sum()).backward()
    assert logprob.shape == entropy.shape == (0,)
    assert hidden.grad is not None and hidden.grad.shape == (0, 8)
    assert weight.grad is not None and not weight.grad.any()


@linear_settings
@pytest.mark.parametrize("vocabulary", [50, V])
@pytest.mark.parametrize("cache", [False, True])
def test_ignored_rows_are_left_out(setting: Setting, vocabulary: int, cache: bool) -> None:
    """They may hold anything, NaN as well: their results and gradients are exactly 0 and nothing else changes."""
    data = problem(11, 24, vocabulary, device=setting.device)
    check(setting, data, ignore=IGNORE, cache=cache)  # none is ignored
    data["targets"][[0, 4, 5, 10]] = IGNORE
    check(setting, data, ignore=IGNORE, cache=cache)
    data["hidden"][[0, 4]] = float("nan")
    hidden, weight = data["hidden"].clone().requires_grad_(), data["weight"].clone().requires_grad_()
    results = setting.linear(hidden, weight, data["targets"], ignore_index=IGNORE, cache=cache)
    (results[0].sum() + (results[1] ** 2).sum()).backward()
    ignored = data["targets"] == IGNORE
    assert not results[0][ignored].any() and not results[1][ignored].any()
    assert hidden.grad is not None and not hidden.grad[ignored].any() and hidden.grad[~ignored].any()
    assert weight.grad is not None and weight.grad.isfinite().all()


@linear_settings
def test_all_rows_ignored(setting: Setting) -> None:
    data = problem(3, 8, V, device=setting.device)
    weight = data["weight"].requires_grad_()
    results = setting.linear(data["hidden"], weight, torch.full_like(data["targets"], IGNORE), ignore_index=IGNORE)
    (results[0] + results[1]).sum().backward()
    assert weight.grad is not None and not weight.grad.any() and not results[0].any()


@linear_settings
@pytest.mark.parametrize("cache", [False, True])
def test_rows_without_upstream_gradient(setting: Setting, cache: bool) -> None:
    data = problem(9, 16, V, device=setting.device)
    for upstream in data["upstream"]:
        upstream[[1, 2, 8]] = 0
    check(setting, data, cache=cache)
    hidden = data["hidden"].clone()
    hidden[2] = float("nan")
    gradient = compute(lambda hidden: setting.linear(hidden, data["weight"], data["targets"], cache=cache), [hidden], data["upstream"])[2][
        0
    ]
    assert not gradient[[1, 2, 8]].any() and gradient[[0, 3]].any() and gradient.isfinite().all()


@linear_settings
@pytest.mark.parametrize("which", ["logprob", "entropy"])
@pytest.mark.parametrize("vocabulary", [40, V])
def test_one_upstream_gradient(setting: Setting, which: str, vocabulary: int) -> None:
    data = problem(6, 16, vocabulary, device=setting.device)
    logprob, entropy = data["upstream"]
    data["upstream"] = (logprob, None) if which == "logprob" else (None, entropy)
    check(setting, data)


@linear_settings
def test_strided_and_shared_upstream_gradients(setting: Setting) -> None:
    data = problem(8, 16, V, device=setting.device)
    base = torch.randn(8, 2, device=setting.device)
    data["upstream"] = (base[:, 0], torch.tensor(0.5, device=setting.device).expand(8))
    check(setting, data)


@linear_settings
def test_strided_inputs(setting: Setting) -> None:
    data = problem(8, 16, V, device=setting.device)
    data["hidden"] = torch.randn(16, 8, device=setting.device).T
    data["weight"] = torch.randn(V, 32, device=setting.device)[:, ::2]
    check(setting, data)
    data["weight"] = torch.randn(V, 40, device=setting.device)[:, 3:19]
    check(setting, data)


@linear_settings
def test_only_what_is_needed(setting: Setting) -> None:
    data = problem(5, 16, V, device=setting.device)
    for name in ("hidden", "weight", "bias"):
        inputs = {key: data[key].clone() for key in ("hidden", "weight", "bias")}
        inputs[name].requires_grad_()
        results = setting.linear(inputs["hidden"], inputs["weight"], data["targets"], inputs["bias"])
        (results[0] + results[1]).sum().backward()
        assert [key for key, value in inputs.items() if value.grad is not None] == [name]
    assert not setting.linear(data["hidden"], data["weight"], data["targets"])[0].requires_grad
    with torch.no_grad():
        assert not setting.linear(data["hidden"], data["weight"].requires_grad_(), data["targets"])[0].requires_grad


@linear_settings
@pytest.mark.parametrize("vocabulary", [40, V])
def test_temperature_is_that_of_both_results(setting: Setting, vocabulary: int) -> None:
    data = problem(6, 16, vocabulary, device=setting.device)
    for temperature in (0.3, 4.0):
        check(setting, data, temperature=temperature)
    rows = torch.tensor([0.3, 1.0, 4.0, 0.3, 1.0, 4.0], device=setting.device)
    results = setting.linear(data["hidden"], data["weight"], data["targets"], None, rows)
    for temperature in (0.3, 1.0, 4.0):
        single = setting.linear(data["hidden"], data["weight"], data["targets"], None, temperature)
        for ours, alone in zip(results, single, strict=True):
            close(ours[rows == temperature], alone[rows == temperature], 1e-6)


@pytest.mark.skipif(INTERPRETED, reason="the kernels themselves are checked in test_interpreted_only.py")
@linear_settings
@pytest.mark.parametrize("vocabulary", [9, 70])
def test_gradcheck(setting: Setting, vocabulary: int) -> None:
    if setting.backend == "triton":
        pytest.skip("no fp64 kernels on a GPU")
    data = problem(4, 5, vocabulary, torch.float64, setting.device)
    inputs = [data[name].requires_grad_() for name in ("hidden", "weight", "bias")]
    for cache in (False, True):
        assert torch.autograd.gradcheck(
            lambda hidden, weight, bias, cache=cache: setting.linear(
                hidden, weight, data["targets"], bias, data["temperature"], cache=cache
            ),
            inputs,
        )
