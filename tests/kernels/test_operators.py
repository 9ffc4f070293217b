"""What torch does around an operator: compile, autocast, checkpointing, a second backward pass, freed weights, other devices."""

from __future__ import annotations

import pytest
import torch
from settings import IGNORE, INTERPRETED, Setting, close, linear_settings, logits_settings, relatively_close
from test_linear import problem
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from aer_lightning.kernels import linear_token_stats, operators, reference
from aer_lightning.kernels.options import Options

ROWS, VOCABULARY = (10, 150) if INTERPRETED else (200, 700)


def loss_of(results: tuple[Tensor, Tensor]) -> Tensor:
    return (results[0] * torch.arange(1.0, 1.0 + results[0].shape[0], device=results[0].device)).sum() + (results[1] ** 2).sum()


@linear_settings
@pytest.mark.parametrize("ignore", [None, IGNORE])
def test_compile(setting: Setting, ignore: int | None) -> None:
    """One graph, forward and backward, with the same numbers; also when N changes."""
    data = problem(ROWS, 16, VOCABULARY, device=setting.device)
    if ignore is not None:
        data["targets"][3] = ignore

    def step(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return loss_of(setting.linear(hidden * 1.5, weight, targets, ignore_index=ignore))

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (ROWS, ROWS * 3 // 5):
        inputs = [data["hidden"][:rows].clone().requires_grad_(), data["weight"].clone().requires_grad_()]
        targets = data["targets"][:rows]
        actual = torch.autograd.grad(compiled(*inputs, targets), inputs)
        expected = torch.autograd.grad(step(*inputs, targets), inputs)
        for ours, wanted in zip(actual, expected, strict=True):
            relatively_close(ours, wanted, 1e-6)


@logits_settings
def test_compile_logits(setting: Setting) -> None:
    logits = torch.randn(ROWS, VOCABULARY, device=setting.device, requires_grad=True)
    targets = torch.arange(ROWS, device=setting.device)

    def step(logits: Tensor) -> Tensor:
        return loss_of(setting.logits(logits * 2, targets, 0.7))

    actual = torch.autograd.grad(torch.compile(step, fullgraph=True, backend="aot_eager")(logits), logits)[0]
    relatively_close(actual, torch.autograd.grad(step(logits), logits)[0], 1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_operators_are_registered_right(bias: bool) -> None:
    """Schema, fake implementation, autograd registration and tracing with symbolic shapes, as torch itself tests them."""
    data = problem(6, 8, 20)
    hidden, weight = data["hidden"].requires_grad_(), data["weight"].requires_grad_()
    arguments = (hidden, weight, data["bias"] if bias else None, data["targets"], data["temperature"], None)
    torch.library.opcheck(operators.linear_statistics, (*arguments, *Options("torch").encode()), atol=1e-5, rtol=1e-5)
    logits = torch.randn(6, 20, requires_grad=True)
    torch.library.opcheck(
        operators.logits_statistics, (logits, data["targets"], None, *Options("torch", temperature=0.5).encode()), atol=1e-5, rtol=1e-5
    )


@linear_settings
@pytest.mark.parametrize("vocabulary", [40, VOCABULARY])
def test_autocast(setting: Setting, vocabulary: int) -> None:
    """Inputs as bf16, sums in fp32, gradients in the dtype of the parameters."""
    data = problem(ROWS, 16, vocabulary, device=setting.device)
    hidden, weight = data["hidden"].requires_grad_(), data["weight"].requires_grad_()
    with torch.autocast(setting.device, torch.bfloat16):
        results = setting.linear(hidden, weight, data["targets"])
        loss_of(results).backward()
    expected = reference.linear_token_stats(hidden.detach().bfloat16().double(), weight.detach().bfloat16().double(), data["targets"])
    for ours, wanted in zip(results, expected[:2], strict=True):
        assert ours.dtype == torch.float32
        close(ours, wanted, 1e-5)
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


@linear_settings
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(setting: Setting, reentrant: bool) -> None:
    data = problem(ROWS, 16, VOCABULARY, device=setting.device)
    gradients = []
    for wrapped in (False, True):
        hidden, weight = (data[name].clone().requires_grad_() for name in ("hidden", "weight"))

        def forward(hidden: Tensor, weight: Tensor) -> Tensor:
            return loss_of(setting.linear(torch.tanh(hidden), weight, data["targets"]))

        loss = checkpoint(forward, hidden, weight, use_reentrant=reentrant) if wrapped else forward(hidden, weight)
        loss.backward()
        gradients.append((hidden.grad, weight.grad))
    for plain, ours in zip(*gradients, strict=True):
        assert torch.equal(plain, ours)


@linear_settings
@pytest.mark.parametrize("vocabulary", [40, VOCABULARY])
@pytest.mark.parametrize("cache", [False, True])
def test_two_backward_passes(setting: Setting, vocabulary: int, cache: bool) -> None:
    data = problem(ROWS, 16, vocabulary, device=setting.device)
    hidden = data["hidden"].requires_grad_()
    loss = loss_of(setting.linear(hidden, data["weight"], data["targets"], cache=cache))
    first = torch.autograd.grad(loss, hidden, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, hidden, retain_graph=True)[0])
    with pytest.raises(RuntimeError):  # once differentiable: the second derivative is refused, not wrong
        once = torch.autograd.grad(loss, hidden, create_graph=True)[0]
        torch.autograd.grad(once.sum(), hidden)


@linear_settings
def test_weight_storage_is_freed_between_the_passes(setting: Setting) -> None:
    """As FSDP2 does after the forward pass; backward it fills the same tensor again."""
    data = problem(ROWS, 16, VOCABULARY, device=setting.device)
    hidden, weight = data["hidden"].requires_grad_(), data["weight"].clone().requires_grad_()
    expected = torch.autograd.grad(loss_of(setting.linear(hidden, weight, data["targets"])), [hidden, weight])
    loss = loss_of(setting.linear(hidden, weight, data["targets"]))
    size = weight.untyped_storage().size()
    with torch.no_grad(), torch.autograd._unsafe_preserve_version_counter(weight):
        weight.untyped_storage().resize_(0)
        weight.untyped_storage().resize_(size)
        weight.copy_(data["weight"])
    for ours, wanted in zip(torch.autograd.grad(loss, [hidden, weight]), expected, strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_device_that_is_not_current() -> None:
    data = problem(ROWS, 16, VOCABULARY, device="cuda:1")
    results = linear_token_stats(data["hidden"], data["weight"], data["targets"], backend="triton")
    expected = reference.linear_token_stats(data["hidden"].double(), data["weight"].double(), data["targets"])
    for ours, wanted in zip(results, expected[:2], strict=True):
        assert ours.device == torch.device("cuda:1")
        close(ours, wanted, 1e-5)
