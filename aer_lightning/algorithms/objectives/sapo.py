"""SAPO: a soft gate in the place of the clip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aer_lightning.algorithms.objectives.aggregation import Aggregation, aggregate, check_aggregation
from aer_lightning.algorithms.objectives.clip import ratio_metrics
from aer_lightning.algorithms.objectives.inputs import LossInputs
from aer_lightning.algorithms.objectives.metrics import Metrics
from aer_lightning.errors import ConfigError


@dataclass(frozen=True)
class SAPOObjective:
    """Per token -(4 / tau) sigmoid(tau (r - 1)) A, tau by the sign of A: a gradient that fades with the ratio and never stops.

    Differs from ``ClipObjective`` in that no token is cut off; at r = 1 both have the same gradient.

    Source: SAPO, arXiv 2511.20347.

    Args:
        tau_positive: how fast the gate closes where A > 0, above 0.
        tau_negative: the same where A <= 0; the source's is the larger one.
        aggregation: denominator of the loss.
    """

    tau_positive: float = 1.0
    tau_negative: float = 1.05
    aggregation: Aggregation = "token_mean"

    def __post_init__(self) -> None:
        check_aggregation(self.aggregation)
        for name in ("tau_positive", "tau_negative"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: must be above 0 and finite, got {getattr(self, name)}")

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """Return the loss and ratio, ratio_max, approx_kl."""
        log_ratio = inputs.log_ratio()
        advantage = inputs.advantage[:, None].to(log_ratio.dtype)
        tau = torch.full_like(advantage, self.tau_negative).masked_fill(advantage > 0, self.tau_positive)
        loss = -advantage * 4 / tau * torch.sigmoid(tau * (log_ratio.exp() - 1))
        return aggregate(loss, inputs, self.aggregation), ratio_metrics(log_ratio, inputs.mask)
