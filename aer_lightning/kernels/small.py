"""A few dozen tokens on a CPU, where calls cost more than work: torch's fused log-softmax of whole rows, and no plan.

A probability near 1 is taken from that of the others, ``ln p = log1p(-rest)``, so that nothing is lost. Rows with -inf or NaN are left to
the general way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

COLUMNS, ELEMENTS = 256, 1 << 19  # of the logits at the most; beyond them blocks that stay in the last-level cache are as fast
BUFFERS = 5  # of all logits: four at the most, and the rows' numbers


class SmallStatistics(torch.autograd.Function):
    """Log-probability and entropy ``[N]`` of logits ``[N, V]``, which are overwritten; NaN where a row has -inf."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, inverse: float) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """`inverse` is 1 / T; after the maximum, so that an offset common to a row cancels exactly."""
        if inverse != 1.0:
            logits.sub_(logits.amax(1, keepdim=True)).mul_(inverse)
        index = targets.long().unsqueeze(1)
        logs = torch.log_softmax(logits, 1)
        others = torch.exp(logs, out=logits).scatter_(1, index, 0.0)  # the probabilities but the target's
        rest = others.sum(1)
        logprob = torch.where(rest < 0.5, torch.log1p(-rest), logs.gather(1, index).squeeze(1))
        probability = logprob.exp()
        entropy = torch.addcmul((others * logs).sum(1), probability, logprob).neg_()
        if len(entropy) and torch.maximum(entropy, logprob + 0.7).amin() < 0.01:
            rows = ((entropy < 0.01) & (logprob < -0.69)).nonzero().squeeze(1)  # certain of another token than the target
            top = logs[rows].argmax(1, keepdim=True)
            logs[rows, top.squeeze(1)] = torch.log1p(-probability[rows] - others[rows].scatter_(1, top, 0.0).sum(1))
            entropy[rows] = -(others[rows] * logs[rows]).sum(1) - probability[rows] * logprob[rows]
        ctx.save_for_backward(logprob, entropy, index, logs, others, rest, probability)
        ctx.inverse = inverse
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logprob: Tensor, of_entropy: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """As in `statistics.gradient_factors`."""
        logprob, entropy, index, logs, others, rest, probability = ctx.saved_tensors
        if ctx.inverse != 1.0:
            of_logprob, of_entropy = of_logprob * ctx.inverse, of_entropy * ctx.inverse
        gradient = (logs * -of_entropy.unsqueeze(1)).sub_(torch.addcmul(of_logprob, of_entropy, entropy).unsqueeze(1)).mul_(others)
        of_target = torch.addcmul(of_logprob * rest, of_entropy * probability, logprob + entropy, value=-1)
        return gradient.scatter_(1, index, of_target.unsqueeze(1)), None, None
