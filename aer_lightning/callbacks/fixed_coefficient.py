"""The constant entropy coefficient: 0 is plain GRPO, anything else the baseline that AER sets out from."""

from __future__ import annotations

import math

from aer_lightning.callbacks.coefficient import CoefficientCallback
from aer_lightning.errors import ConfigError


class FixedCoefficient(CoefficientCallback):
    """The same coefficient for every token of the run.

    Args:
        coefficient: lambda, at least 0; 0 turns the entropy term off.

    Raises:
        ConfigError: the coefficient is negative or not finite.
    """

    def __init__(self, coefficient: float = 0.0) -> None:
        super().__init__()
        if not 0 <= coefficient < math.inf:
            raise ConfigError(f"coefficient: must be at least 0 and finite, got {coefficient}")
        self.alpha = coefficient
        self._configured = coefficient

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Take the counts back; the coefficient stays the configured one, because it is an option and not a state."""
        super().load_state_dict(state_dict)
        self.alpha = self._configured
