"""STARE's gate on the weight of surprising right tokens."""

from __future__ import annotations

from aer_lightning.algorithms.feedback import GateRule
from aer_lightning.callbacks.feedback import FeedbackCallback


class STAREGate(FeedbackCallback):
    """Opens and closes the weight of ``STAREObjective``: W while the last rollout's entropy was below the target, else 1.

    Source: STARE, arXiv 2606.19236, sections 4.3 and 4.4; its repository gates by the entropy of the rollout at hand.

    Args:
        weight: W, at least 1.
        step: of W by the sign of H* - H, at least 0; 0 keeps it.
        largest: largest W.

    Raises:
        ConfigError: an option is out of range.
    """

    scalar = "surprisal_weight"

    def __init__(self, weight: float = 1.1, step: float = 0.0, largest: float = 1.5) -> None:
        super().__init__(GateRule(weight, step, largest))
