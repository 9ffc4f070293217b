"""Where the same cases run: in this process on the CPU, in Triton's interpreter (another process), or compiled on a GPU.

`TRITON_INTERPRET=1` must be set before the kernels are imported, so test_interpreted.py starts a process of its own for these cases.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from aer_lightning.kernels import linear_token_stats, logits_token_stats, plan
from aer_lightning.kernels.planning import INTERPRETER
from aer_lightning.kernels.statistics import product_dtype

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

    def logits(self, logits: Tensor, targets: Tensor, temperature: Any = 1.0, **options: Any) -> tuple[Tensor, ...]:
        return logits_token_stats(logits, targets, temperature, self.backend, **options)

    def linear(
        self, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Any = None, temperature: Any = 1.0, memory_mb: float = 64,
        cache: bool = True, **options: Any,
    ) -> Any:  # fmt: skip
        """`cache=False` computes the logits again in the backward pass, however much memory there is."""
        plain = not set(options) & {"softcap", "entropy_top_share", "entropy_top_p"}
        forced = self.backend == "triton" and plain
        if (forced or not cache) and not torch.compiler.is_compiling() and not torch.is_autocast_enabled(self.device):
            form = self.form if forced else "torch" if self.backend == "torch" else "auto"
            device = INTERPRETER if INTERPRETED else torch.device(self.device)
            dtype = product_dtype(hidden.dtype, weight.dtype)
            made = plan(hidden.shape[0], hidden.shape[1], weight.shape[0], dtype, memory_mb, device, weight_dtype=weight.dtype, cache=cache,
                        form=form, bias=bias is not None, plain=plain)  # fmt: skip
            options["plan"] = made
        return linear_token_stats(hidden, weight, targets, bias, temperature, self.backend, memory_mb, **options)


_ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
if INTERPRETED:
    LINEAR: list[Any] = [Setting("triton", form="rows"), Setting("triton", form="product")]
    LOGITS: list[Any] = [Setting("triton")]
else:
    LINEAR = [
        Setting("torch"),
        *(pytest.param(Setting(backend, "cuda", form), marks=_ON_GPU, id=f"{backend}-cuda-{form}")
          for backend, form in (("torch", "rows"), ("triton", "rows"), ("triton", "product"))),
    ]  # fmt: skip
    LOGITS = [
        Setting("torch"),
        *(pytest.param(Setting(backend, "cuda"), marks=_ON_GPU, id=f"{backend}-cuda") for backend in ("torch", "triton")),
    ]
linear_settings = pytest.mark.parametrize("setting", LINEAR, ids=str)
logits_settings = pytest.mark.parametrize("setting", LOGITS, ids=str)
not_interpreted = pytest.mark.skipif(INTERPRETED, reason="too large for the interpreter")


def compute(function: Any, inputs: list[Tensor], upstream: tuple[Tensor | None, Tensor | None]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Both results and the gradients of the inputs for the given upstream gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    logprob, entropy = function(*leaves)[:2]
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
