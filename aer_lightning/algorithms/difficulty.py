"""How difficulty allots the entropy coefficient. No Lightning, no torch.

*Source* (AER, arXiv 2510.10959): sample-level coefficients follow the difficulty of the task, with a threshold rho. *Reading*: the shapes,
and their normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from aer_lightning.errors import ConfigError

WeightShape = Literal["hinge", "gate", "linear", "uniform"]


@runtime_checkable
class Weight(Protocol):
    """A shape of one's own: a function w(g), or an object that can be called like one."""

    def __call__(self, accuracy: Any) -> Any:
        """Return w(g), at least 0, for g in [0, 1]: a float for a float, a tensor of the same shape for a tensor."""
        ...


def check_difficulty(rho: float, shape: str | Weight) -> None:
    """Refuse a threshold or a shape that makes no sense.

    Raises:
        ConfigError: names ``rho`` or ``shape``.
    """
    if not 0 < rho <= 1:
        raise ConfigError(f"rho: the accuracy below which a prompt counts as difficult must be above 0 and at most 1, got {rho}")
    if not callable(shape) and shape not in get_args(WeightShape):
        raise ConfigError(f"shape: must be one of {', '.join(get_args(WeightShape))}, or a function of the accuracy, got {shape!r}")


def check_scale(max_scale: float) -> None:
    """Refuse a scale that could only shrink the weights.

    Raises:
        ConfigError: names ``max_scale``.
    """
    if not 1 <= max_scale < math.inf:
        raise ConfigError(f"max_scale: the largest scale of normalised weights must be at least 1 and finite, got {max_scale}")


def difficulty_weight(g: Any, rho: float = 0.5, shape: WeightShape | Weight = "hinge") -> Any:
    """w(g), the share of the global coefficient that a prompt of group accuracy g gets.

    ``hinge`` clip((rho - g) / rho, 0, 1) · ``gate`` 1 if g < rho else 0 · ``linear`` 1 - g · ``uniform`` 1. All are 1 at g = 0.

    Args:
        g: share of correct responses in [0, 1]: a float, or a floating-point tensor of any shape.
        rho: threshold of hinge and gate, in (0, 1].
        shape: one of the names, or a function of g alone.

    Returns:
        float, or a tensor like ``g``.
    """
    check_difficulty(rho, shape)
    if callable(shape):
        return shape(g)
    if isinstance(g, int | float):
        if shape == "hinge":
            return min(max((rho - g) / rho, 0.0), 1.0)
        if shape == "gate":
            return 1.0 if g < rho else 0.0
        return 1.0 - g if shape == "linear" else 1.0
    if shape == "hinge":
        return ((rho - g) / rho).clip(0, 1)
    if shape == "gate":
        return (g < rho) + 0 * g
    return 1 - g if shape == "linear" else 1 + 0 * g


def normalisation(
    tokens_by_correct: Sequence[float], rho: float = 0.5, shape: WeightShape | Weight = "hinge", max_scale: float = 5.0
) -> tuple[float, float]:
    """Scale and offset (s, o) that make the mean of s w(g) + o over the tokens of a rollout 1.

    s = min(1 / mean w, max_scale), and o = 1 - s mean w is what is left, the same for every prompt. So the size of the regularisation is
    alpha, however few prompts are still hard, and no prompt gets more than max_scale + 1 times alpha; where no prompt is hard, all get 1.

    Example:
        Groups of 2 with 10, 20 and 70 tokens at 0, 1 and 2 correct: hinge weights 1, 0, 0, mean .1. With max_scale 5 the scale is 5,
        half of the mean, and each token gets the other half: weights 5.5, .5, .5 (mean .1 x 5.5 + .9 x .5 = 1). With max_scale 20
        it is 10 and 0: weights 10, 0, 0.

        >>> normalisation([10, 20, 70], rho=0.5, shape="hinge", max_scale=5.0)
        (5.0, 0.5)
        >>> normalisation([10, 20, 70], rho=0.5, shape="hinge", max_scale=20.0)
        (10.0, 0.0)

    Args:
        tokens_by_correct: [G + 1] response tokens, over all ranks, of the groups with c of G right answers.
        rho: threshold of hinge and gate.
        shape: of the weight.
        max_scale: largest s, at least 1.

    Raises:
        ValueError: there are no tokens.
    """
    size = len(tokens_by_correct) - 1
    total = float(sum(tokens_by_correct))
    if not total > 0:
        raise ValueError("tokens_by_correct: a rollout without response tokens has no mean weight; RolloutDataModule counts them")
    weighted = sum(n * difficulty_weight(c / max(size, 1), rho, shape) for c, n in enumerate(tokens_by_correct))
    mean = float(weighted) / total
    scale = min(1.0 / mean, max_scale) if mean > 0 else max_scale
    return scale, max(0.0, 1.0 - scale * mean)
