"""SIREN's self-anchored regularisation, as a coefficient of the entropy bonus. No Lightning, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aer_lightning.algorithms.controllers import check_measured
from aer_lightning.errors import ConfigError


@dataclass(frozen=True)
class SelfAnchoredController:
    """alpha = 2 c (H_a - H) / (1 - q): the gradient of c (H - H_a)^2, H the mean over the tokens that the peak-entropy mask leaves.

    The source adds that square to the loss. With respect to the weights its gradient is -2 c (H_a - H) times that of H, so it is an
    entropy bonus whose coefficient is proportional to the error and turns negative above the anchor. The bonus is divided by all tokens
    and H by the share 1 - q of them, hence the last factor.

    Source: SIREN, arXiv 2509.25133 (self-anchored form; c 0.005, q 0.8 in its code). It takes H from the micro-batch that is trained
    on; here it is the rollout's before, so that micro-batches and ranks change nothing.

    Args:
        coefficient: c, above 0.
        quantile: q, in [0, 1).

    Example (0.1 nat below the anchor, a fifth of the tokens regularised):
        >>> round(SelfAnchoredController(coefficient=0.005, quantile=0.8).update(0.4, 0.5), 6)
        0.005
    """

    coefficient: float = 0.005
    quantile: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.coefficient < math.inf:
            raise ConfigError(f"coefficient: must be above 0 and finite, got {self.coefficient}")
        if not 0 <= self.quantile < 1:
            raise ConfigError(f"quantile: the share of tokens below the mask must be at least 0 and below 1, got {self.quantile}")

    def update(self, entropy: float, target: float) -> float:
        """Return alpha, given H of the last rollout and H_a, both in nat."""
        check_measured(entropy, target)
        return 2 * self.coefficient * (target - entropy) / (1 - self.quantile)
