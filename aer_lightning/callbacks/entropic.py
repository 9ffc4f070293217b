"""EntroPIC's controller on the weights of right and wrong tokens."""

from __future__ import annotations

from aer_lightning.algorithms.feedback import SureWeightRule
from aer_lightning.callbacks.feedback import FeedbackCallback


class EntroPICWeight(FeedbackCallback):
    """Moves alpha of ``EntroPICObjective``: proportional to the error H - H* and to the sum of the earlier ones.

    Source: EntroPIC, arXiv 2511.15248; its repository moves alpha in every micro-batch.

    Args:
        kp: gain per nat.
        ki: gain per nat and rollout.
        limit: largest size of alpha.

    Raises:
        ConfigError: an option is out of range.
    """

    scalar = "sure_weight"

    def __init__(self, kp: float = 1.0, ki: float = 0.01, limit: float = 1.0) -> None:
        super().__init__(SureWeightRule(kp, ki, limit))
