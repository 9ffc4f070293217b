"""What only a GPU can show: more than 2^31 elements, peak memory, CUDA graphs. The other cases run on a GPU from their own files."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from settings import close, relatively_close
from torch import Tensor

from aer_lightning.kernels import linear_token_stats, logits_token_stats, plan, reference

triton_backend = pytest.importorskip("aer_lightning.kernels.triton_backend", reason="triton is not installed")

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
GIB = 2**30
FORMS = ("rows", "product")


def needs(gib: float) -> None:
    free = torch.cuda.mem_get_info()[0] / GIB
    if free < gib:
        pytest.skip(f"needs {gib} GiB of free GPU memory, has {free:.0f}")


@pytest.fixture(autouse=True)
def _empty_cache() -> Any:
    yield
    torch.cuda.empty_cache()


def test_more_than_2_to_31_logits() -> None:
    needs(24)
    rows, columns = 15_000, 151_936
    assert rows * columns > 2**31
    logits = torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16).requires_grad_()
    targets = torch.arange(rows, device="cuda") * 10
    logprob, entropy = logits_token_stats(logits, targets, backend="triton")
    (logprob.sum() + entropy.sum()).backward()
    assert logits.grad is not None
    picked = torch.tensor([0, 1, 14_134, 14_135, rows - 1], device="cuda")  # around element 2^31 and the last
    leaf = logits.detach()[picked].double().requires_grad_()
    expected = reference.logits_token_stats(leaf, targets[picked])
    (expected[0].sum() + expected[1].sum()).backward()
    assert leaf.grad is not None
    close(logprob.detach()[picked], expected[0].detach(), 1e-5)
    close(entropy.detach()[picked], expected[1].detach(), 1e-5)
    relatively_close(logits.grad[picked], leaf.grad, 3e-3)


@pytest.mark.parametrize("form", FORMS)
def test_more_than_2_to_31_weights(form: str) -> None:
    needs(40)
    rows, width, vocabulary = 64, 16_384, 151_936
    assert vocabulary * width >= 2**31
    hidden = torch.randn(rows, width, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight = (torch.randn(vocabulary, width, device="cuda", dtype=torch.bfloat16) * width**-0.5).requires_grad_()
    targets = vocabulary - 1 - torch.arange(rows, device="cuda")
    made = plan(rows, width, vocabulary, torch.bfloat16, 2048, "cuda", form=form)  # type: ignore[arg-type]
    logprob, entropy = linear_token_stats(hidden, weight, targets, backend="triton", plan=made)
    (logprob.sum() + entropy.sum()).backward()
    few = slice(0, 4)
    logits = torch.cat([hidden.detach()[few].double() @ part.double().T for part in weight.detach().split(4096)], 1)
    expected = reference.logits_token_stats(logits, targets[few])
    close(logprob.detach()[few], expected[0], 2e-5)
    close(entropy.detach()[few], expected[1], 2e-5)
    assert weight.grad is not None and weight.grad[-rows:].abs().amax(1).min() > 0 and weight.grad.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_more_rows_than_a_grid_axis(form: str) -> None:
    rows = 65_536 + 77
    hidden = torch.randn(rows, 64, device="cuda").requires_grad_()
    weight = torch.randn(1003, 64, device="cuda").requires_grad_()
    targets = torch.arange(rows, device="cuda") % 1003
    results = linear_token_stats(hidden, weight, targets, backend="triton", plan=plan(rows, 64, 1003, torch.float32, 256, "cuda"))
    gradients = torch.autograd.grad(results[0].sum() + results[1].sum(), (hidden, weight))
    leaves = (hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_())
    expected = reference.linear_token_stats(*leaves, targets)
    close(results[0].detach(), expected[0].detach(), 1e-5)
    close(results[1].detach(), expected[1].detach(), 1e-5)
    for ours, wanted in zip(gradients, torch.autograd.grad(expected[0].sum() + expected[1].sum(), leaves), strict=False):
        relatively_close(ours, wanted, 1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [8192, 16384, 32768])
@pytest.mark.parametrize("memory", [384, 1024, 12288])
def test_peak_memory(form: str, rows: int, memory: int) -> None:
    """Beyond hidden states and weight: their gradients, and not more than the budget; 1.6 GiB at 8192 tokens and 384 MiB."""
    needs(24)
    width, vocabulary = 4096, 151_936
    hidden = torch.randn(rows, width, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight = torch.randn(vocabulary, width, device="cuda", dtype=torch.bfloat16).requires_grad_()
    targets = torch.randint(0, vocabulary, (rows,), device="cuda")
    made = plan(rows, width, vocabulary, torch.bfloat16, memory, "cuda", form=form)  # type: ignore[arg-type]

    def step() -> None:
        logprob, entropy = linear_token_stats(hidden, weight, targets, backend="triton", plan=made)
        torch.autograd.grad((logprob + entropy).sum(), (hidden, weight))

    step()  # libraries allocate workspaces of their own once
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= hidden.nbytes + weight.nbytes + memory * 2**20, f"{peak / GIB:.2f} GiB"


def test_auto_is_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    original = triton_backend.logits_statistics

    def recorded(*arguments: Any) -> Tensor:
        called.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(triton_backend, "logits_statistics", recorded)
    logits_token_stats(torch.randn(4, 300, device="cuda"), torch.zeros(4, dtype=torch.long, device="cuda"))
    assert called


def test_cuda_graph() -> None:
    """Forward without gradient is captured and replayed on new values; checks that need the host are left out then."""
    hidden = torch.randn(256, 128, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(3000, 128, device="cuda", dtype=torch.bfloat16)
    targets = torch.randint(0, 3000, (256,), device="cuda")

    def forward() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return linear_token_stats(hidden, weight, targets, backend="triton")

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        forward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = forward()
    hidden.copy_(torch.randn(256, 128, device="cuda"))
    graph.replay()
    for ours, wanted in zip(captured, reference.linear_token_stats(hidden.double(), weight.double(), targets), strict=False):
        close(ours, wanted, 1e-5)


def test_inductor() -> None:
    hidden = torch.randn(300, 128, device="cuda", requires_grad=True)
    weight = torch.randn(3000, 128, device="cuda", requires_grad=True)
    targets = torch.randint(0, 3000, (300,), device="cuda")

    def step(hidden: Tensor) -> Tensor:
        logprob, entropy = linear_token_stats(torch.tanh(hidden), weight, targets)
        return (logprob + entropy).sum()

    expected = torch.autograd.grad(step(hidden), (hidden, weight))
    for ours, wanted in zip(torch.autograd.grad(torch.compile(step, fullgraph=True)(hidden), (hidden, weight)), expected, strict=False):
        relatively_close(ours, wanted, 1e-4)
