"""The public kernels that the GPU benchmark compares with, where they are installed; each through its own documented entry point.

pip install "liger-kernel[cutedsl]" cut-cross-entropy verl quack-kernels; prime-rl from its repository
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
    for make in (_cut_cross_entropy, _liger, _liger_scaled, _verl, _quack, _prime_rl, _torch):
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


def _liger_scaled() -> Contender:
    """On compute capability 9.0 its CuTe DSL kernels, which need that extra; elsewhere chunks in torch, and the name says so."""
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction

    hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)

    def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        loss, entropy = LigerFusedLinearScaledCrossEntropyFunction.apply(hidden, weight, targets, 1.0, -100, 1, True)
        return -loss, entropy

    return Contender(f"liger-kernel, scaled with entropy, {'CuTe DSL' if hopper else 'torch chunks'}", run, 6)


def _verl() -> Contender:
    from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy

    return Contender("verl, linear_cross_entropy", lambda h, w, t: linear_cross_entropy(h, w, t, 1.0), 6)  # type: ignore[return-value]


def _quack() -> Contender:
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    return Contender("quack, sum of logprobs only", lambda h, w, t: (-chunked_linear_cross_entropy(h, w, t, reduction="sum"), None), 4)


def _prime_rl() -> Contender:
    """Its entropy is computed, but has no gradient: it is left out of the loss, and of the errors."""
    from prime_rl.trainer.models.layers.lm_head import FusedOutputLinear

    def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, None]:
        with torch.device("meta"):
            head = FusedOutputLinear(weight.shape[1], weight.shape[0], 8192)  # tokens of a chunk, as its configuration has it
        rows = hidden[None], targets[None], torch.ones(1, len(targets), device=hidden.device)
        return torch.func.functional_call(head, {"weight": weight}, rows)["logprobs"][0], None

    return Contender("prime-rl, fused head, logprob differentiated", run, 6)


def _torch() -> Contender:
    function: Callable[..., Tensor] = torch.nn.functional.linear_cross_entropy  # type: ignore[attr-defined]
    return Contender("torch, F.linear_cross_entropy, logprob only", lambda h, w, t: (-function(h, w, t, reduction="none"), None), 4)
