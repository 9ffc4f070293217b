"""The public kernels that the GPU benchmark compares with, where they are installed; each through its own documented entry point.

pip install liger-kernel cut-cross-entropy verl quack-kernels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Contender:
    """A way to compute the statistics; without an entropy the second result is None."""

    name: str
    function: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
    backward_work: int = 4  # in units of NDV
    roofline: float | None = None  # s, of the plan


def peers() -> list[Contender]:
    """Those that can be imported; the others are named."""
    found = []
    for make in (_cut_cross_entropy, _liger, _verl, _quack, _torch):
        try:
            found.append(make())
        except (ImportError, AttributeError) as error:
            print(f"{make.__name__.strip('_')}: left out ({error})")
    return found


def _cut_cross_entropy() -> Contender:
    from cut_cross_entropy import linear_cross_entropy

    return Contender("cut-cross-entropy, logprob only", lambda h, w, t: (-linear_cross_entropy(h, w, t, reduction="none"), None), 6)


def _liger() -> Contender:
    """It computes the gradients in the forward pass; its sum is all that it can return with them."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, None]:
        loss = liger_fused_linear_cross_entropy(hidden, weight, targets, reduction="sum")
        return -(loss[0] if isinstance(loss, tuple) else loss), None

    return Contender("liger-kernel, sum of logprobs only", run, 4)


def _verl() -> Contender:
    from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy

    return Contender("verl, linear_cross_entropy", lambda h, w, t: linear_cross_entropy(h, w, t, 1.0), 6)  # type: ignore[return-value]


def _quack() -> Contender:
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    return Contender("quack, sum of logprobs only", lambda h, w, t: (-chunked_linear_cross_entropy(h, w, t, reduction="sum"), None), 4)


def _torch() -> Contender:
    function: Callable[..., Tensor] = torch.nn.functional.linear_cross_entropy  # type: ignore[attr-defined]
    return Contender("torch, F.linear_cross_entropy, logprob only", lambda h, w, t: (-function(h, w, t, reduction="none"), None), 4)
