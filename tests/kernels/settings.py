"""Where the same cases run: in this process on the CPU, in Triton's interpreter (another process), or compiled on a GPU.

`TRITON_INTERPRET=1` must be set before the kernels are imported, so test_interpreted.py starts a process of its own for these cases.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from aer_lightning.kernels import linear_token_stats, logits_token_stats

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
IGNORE = -100


@dataclass(frozen=True)
class Setting:
    """A backend on a device; `form` is that of the Triton backend."""

    backend: str
    device: str = "cpu"
    form: str = "rows"

    def __str__(self) -> str:
        return "-".join((self.backend, self.device) + ((self.form,) if self.backend == "triton" else ()))

    @contextmanager
    def active(self) -> Iterator[None]:
        if self.backend != "triton":
            yield
            return
        from aer_lightning.kernels import fused

        before = fused.FORWARD, fused.BACKWARD
        fused.FORWARD = fused.BACKWARD = self.form
        try:
            yield
        finally:
            fused.FORWARD, fused.BACKWARD = before

    def logits(self, logits: Tensor, targets: Tensor, temperature: Any = 1.0, **options: Any) -> tuple[Tensor, Tensor]:
        with self.active():
            return logits_token_stats(logits, targets, temperature, self.backend, **options)

    def linear(self, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Any = None, temperature: Any = 1.0, **options: Any) -> Any:
        with self.active():
            return linear_token_stats(hidden, weight, targets, bias, temperature, self.backend, **options)


_ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
if INTERPRETED:
    LINEAR: list[Any] = [Setting("triton", form="rows"), Setting("triton", form="product")]
    LOGITS: list[Any] = [Setting("triton")]
else:
    LINEAR = [
        Setting("chunked"),
        *(pytest.param(Setting(backend, "cuda", form), marks=_ON_GPU, id=f"{backend}-cuda-{form}")
          for backend, form in (("chunked", "rows"), ("triton", "rows"), ("triton", "product"))),
    ]  # fmt: skip
    LOGITS = [
        Setting("chunked"),
        *(pytest.param(Setting(backend, "cuda"), marks=_ON_GPU, id=f"{backend}-cuda") for backend in ("chunked", "triton")),
    ]
linear_settings = pytest.mark.parametrize("setting", LINEAR, ids=str)
logits_settings = pytest.mark.parametrize("setting", LOGITS, ids=str)
not_interpreted = pytest.mark.skipif(INTERPRETED, reason="too large for the interpreter")


def compute(function: Any, inputs: list[Tensor], upstream: tuple[Tensor | None, Tensor | None]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Both results and the gradients of the inputs for the given upstream gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    logprob, entropy = function(*leaves)
    pairs = [(value, gradient.to(value)) for value, gradient in zip((logprob, entropy), upstream, strict=True) if gradient is not None]
    gradients = torch.autograd.grad([value for value, _ in pairs], leaves, [gradient for _, gradient in pairs])
    return logprob.detach(), entropy.detach(), list(gradients)


def close(actual: Tensor, expected: Tensor, absolute: float) -> None:
    """Assert a maximal absolute difference, or one of a rounding to fp32; NaN and infinities at the same places."""
    actual, expected = actual.double().cpu(), expected.double().cpu()
    torch.testing.assert_close(actual, expected, rtol=1.2e-7, atol=absolute, equal_nan=True)


def relatively_close(actual: Tensor, expected: Tensor, relative: float) -> None:
    """Assert a relative error in the Frobenius norm."""
    actual, expected = actual.double().cpu(), expected.double().cpu()
    assert actual.shape == expected.shape
    assert torch.isfinite(actual).all()
    error = (actual - expected).norm() / expected.norm().clamp_min(1e-12)
    assert error <= relative, f"relative error {error:.2e} above {relative:.0e}"
