"""The entropy-guided weight of Positive-Advantage Reweighting."""

from __future__ import annotations

from aer_lightning.algorithms.feedback import PositiveWeightRule
from aer_lightning.callbacks.feedback import FeedbackCallback


class PositiveAdvantageWeight(FeedbackCallback):
    """Moves lambda of ``PositiveAdvantageObjective``: down by a step below the target entropy, up by it otherwise, within [0, 1].

    Source: arXiv 2511.05993, section 7.3.

    Args:
        init: lambda of the first rollout.
        step: above 0.

    Raises:
        ConfigError: an option is out of range.
    """

    scalar = "positive_weight"

    def __init__(self, init: float = 0.0, step: float = 0.05) -> None:
        super().__init__(PositiveWeightRule(init, step))
