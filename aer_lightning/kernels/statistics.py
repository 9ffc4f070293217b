"""Softmax statistics of a block of logits, how blocks merge, and what a row needs for its gradient.

For one block of the vocabulary, with ``l = (x - m) / T``::

    m = max x        r = sum e^l - 1        b = sum l e^l        x_y = logit of the target (0 where the block does not hold it)

`r` leaves out the 1 of the maximum itself: near probability 1 the sum would round to 1 and the rest, which is all there is to know, would
be gone. Two blocks merge at ``m' = max(m1, m2)``: with ``d = (m - m') / T`` and ``a = e^d`` the block of the maximum keeps its r, the
other adds ``a (1 + r)`` to it; b becomes the sum of ``a (b + d (1 + r))``. Then ``logprob = (x_y - m) / T - log1p(r)`` and
``entropy = log1p(r) - b / (1 + r)``. Everything is a difference to the maximum, so an offset common to a row cancels before it is rounded,
and m and ln s are kept apart for the same reason (their sum, the usual log-sum-exp, loses 2e-3 nat at an offset of 1e4).
"""

from __future__ import annotations

import torch
from torch import Tensor

NEGATIVE_INFINITY = float("-inf")
LOWEST_EXPONENT = -1e30  # stands in for -inf where it would meet a probability of 0; e^x is 0 either way


def accumulation_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """fp64 if one of them is, otherwise fp32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def product_dtype(hidden: torch.dtype, weight: torch.dtype) -> torch.dtype:
    """The dtype that the operands of the products have: that of the hidden states, to which the weight is cast; fp64 if one is fp64."""
    return torch.float64 if torch.float64 in (hidden, weight) else hidden


def finite_maximum(maximum: Tensor) -> Tensor:
    """Replace a maximum of -inf (a block without a finite logit) by 0, so that ``x - m`` is -inf there and not NaN."""
    return torch.where(maximum == NEGATIVE_INFINITY, torch.zeros_like(maximum), maximum)


def merge(partials: Tensor, inverse: Tensor | float) -> Tensor:
    """Merge the statistics ``[4, S, n]`` (m, r, b, x_y) of S blocks to ``[4, n]``; `inverse` is 1 / T, ``[n]`` or one for all."""
    maximum, rest, weighted, target = partials.unbind(0)
    merged = maximum.amax(0)
    empty = maximum == NEGATIVE_INFINITY
    distance = torch.where(empty, torch.zeros_like(maximum), (maximum - finite_maximum(merged)) * inverse)
    scale = distance.exp()
    total = 1 + rest  # 0 for an empty block
    at_top = (maximum == merged) & ~empty
    gathered = torch.where(at_top, rest, scale * total).sum(0) + (at_top.sum(0) - 1)
    return torch.stack((merged, gathered, (scale * (weighted + distance * total)).sum(0), target.sum(0)))


def finish(partials: Tensor, inverse: Tensor | float) -> Tensor:
    """Turn ``[4, S, n]`` into ``[4, n]``: logprob, entropy, m, ln s. A row of -inf alone, or with a NaN, gives NaN, as in torch."""
    maximum, rest, weighted, target = partials[:, 0] if partials.shape[1] == 1 else merge(partials, inverse)
    log_sum = rest.log1p()
    return torch.stack(((target - maximum) * inverse - log_sum, log_sum - weighted / (1 + rest), maximum, log_sum))


def gradient_factors(
    logprob: Tensor,
    saved: Tensor,
    inverse: Tensor | float,
    upstream: tuple[Tensor | None, Tensor | None, Tensor | None],
    squash: float = 0.0,
) -> Tensor:
    """What the gradient of a row takes, ``[F, n]``: m, ln s, 1 / T, then y, k and e of the following.

    ::

        dx_v = p_v (k - e l_v), and dx_y = y at the target,        l = (x - m) / T - ln s, p = e^l

    which is (g_lp (1[y] - p) - g_H p (l + H) + g_lse p) / T with the target's part taken from ``expm1`` of its log-probability, because
    1 - p loses all its digits near 1. Where the entropy is over the top of the row, two more rows: the threshold, and the constant in
    ``dx_v = p_v (k - [x_v >= threshold] e (l_v + c))``. Rows without upstream gradient have y = k = e = 0 exactly.

    Args:
        logprob: ``[n]``.
        saved: ``[3, n]``: H, m, ln s; ``[5, n]`` with the threshold and ln(s / s of the top).
        inverse: 1 / T, ``[n]`` or one for all.
        upstream: gradients ``[n]`` of log-probability, entropy and log-sum-exp; None for none.
        squash: what goes before the tangent of a softcap, 0 for none; then ``dx_v`` still has to be multiplied by 1 - x_v^2.
    """
    entropy, maximum, log_sum = saved[:3]
    zero = torch.zeros_like(maximum)
    of_logprob, of_entropy, of_lse = (zero if value is None else value.to(maximum.dtype) for value in upstream)
    active = (of_logprob != 0) | (of_entropy != 0) | (of_lse != 0)
    finite = logprob.clamp(min=LOWEST_EXPONENT)
    slope, constant = of_entropy * inverse, entropy
    at_target = slope
    if len(saved) == 5:
        threshold, shift = saved[3:]
        slope, constant = slope * shift.exp(), entropy + shift
        at_target = torch.where(finite >= (threshold - maximum) * inverse - log_sum, slope, zero)
    target = finite.exp() * (of_lse * inverse - at_target * (finite + constant)) - of_logprob * inverse * finite.expm1()
    common = (of_lse - of_logprob) * inverse
    numbers = [target, common if len(saved) == 5 else common - slope * constant, slope]
    rows = [maximum, log_sum, zero + inverse, *(torch.where(active, value * (squash or 1.0), zero) for value in numbers)]
    return torch.stack(rows + ([saved[3], constant] if len(saved) == 5 else []))


def top_threshold(logits: Tensor, inverse: Tensor | float, share: float, mass: float) -> Tensor:
    """The threshold ``[n]`` above which the top of each row ``[n, V]`` lies.

    The top is the ceil(share V) largest logits, or with `mass` the fewest that hold this probability; equal logits are in or out together.
    The threshold lies midway to the next lower logit, so that a product taken again in another order does not move a token over it.
    """
    ordered = logits.sort(1, descending=True).values
    if mass < 1:
        probability = ((ordered - finite_maximum(ordered[:, :1])) * (inverse[:, None] if isinstance(inverse, Tensor) else inverse)).exp_()
        held = probability.cumsum_(1)
        last = (held < mass * held[:, -1:]).sum(1).clamp_(max=logits.shape[1] - 1)
    else:
        last = torch.full_like(logits[:, 0], top_count(share, logits.shape[1]) - 1, dtype=torch.long)
    lowest = ordered.gather(1, last[:, None])
    below = (ordered >= lowest).sum(1, keepdim=True)
    following = ordered.gather(1, below.clamp_(max=logits.shape[1] - 1))
    middle = lowest / 2 + following / 2
    return torch.where((following < lowest) & (middle > following) & middle.isfinite(), middle, lowest).squeeze(1)


def top_count(share: float, vocabulary: int) -> int:
    """How many tokens the top `share` of a vocabulary has: 0.2 of 11 are 3."""
    return max(1, -int(-share * vocabulary * (1 - 1e-12) // 1))
