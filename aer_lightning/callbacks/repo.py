"""REPO-R's feedback on the scale of its advantages."""

from __future__ import annotations

from aer_lightning.algorithms.feedback import ZetaRule
from aer_lightning.callbacks.feedback import FeedbackCallback


class REPORScale(FeedbackCallback):
    """Moves zeta of ``REPORObjective``: doubled below the target entropy, halved above, with a change of sign at its smallest size.

    Source: REPO, arXiv 2603.11682, App. D.2; SkyRL's pull request 1896. The target is the initial entropy: ``EntropyAnchor(tau=1.0)``.

    Args:
        init: zeta of the first rollout.
        smallest: size at which the sign changes.
        largest: largest size.

    Raises:
        ConfigError: an option is out of range.
    """

    scalar = "zeta"

    def __init__(self, init: float = 1e-3, smallest: float = 1e-4, largest: float = 0.05) -> None:
        super().__init__(ZetaRule(init, smallest, largest))
