"""The mathematics of the policy update: pure functions and small validated dataclasses, no Lightning.

A minimal use::

    inputs = LossInputs(logprob=..., old_logprob=..., advantage=..., mask=..., num_tokens=..., num_sequences=..., max_tokens=...)
    inputs, mismatch = ImportanceWeights().apply(inputs)
    loss, metrics = ClipObjective()(inputs)
    loss = loss - entropy_bonus(entropy, inputs.mask, coefficient, inputs.num_tokens)
"""

from aer_lightning.algorithms.objectives.aggregation import Aggregation, aggregate
from aer_lightning.algorithms.objectives.clip import CISPOObjective, ClipObjective
from aer_lightning.algorithms.objectives.covariance import ClipCovObjective, CovarianceObjective, KLCovObjective
from aer_lightning.algorithms.objectives.entropy import EntropyScope, entropy_bonus, peak_entropy_mask
from aer_lightning.algorithms.objectives.importance import ImportanceWeights, mismatch_metrics
from aer_lightning.algorithms.objectives.inputs import CovarianceStatistics, LossInputs, Objective
from aer_lightning.algorithms.objectives.kl import KLEstimator, kl_loss, kl_penalised_rewards, kl_penalty
from aer_lightning.algorithms.objectives.metrics import Metrics, finish_metrics, masked_mean_metric, merge_metrics, reduces_by_max
from aer_lightning.algorithms.objectives.randomness import counter_uniform
from aer_lightning.algorithms.objectives.repo import REPORObjective
from aer_lightning.algorithms.objectives.reweighting import EntroPICObjective, PositiveAdvantageObjective, STAREObjective
from aer_lightning.algorithms.objectives.sapo import SAPOObjective
from aer_lightning.algorithms.objectives.sequence import GMPOObjective, GSPOObjective

__all__ = [
    "Aggregation",
    "CISPOObjective",
    "ClipCovObjective",
    "ClipObjective",
    "CovarianceObjective",
    "CovarianceStatistics",
    "EntroPICObjective",
    "EntropyScope",
    "GMPOObjective",
    "GSPOObjective",
    "ImportanceWeights",
    "KLCovObjective",
    "KLEstimator",
    "LossInputs",
    "Metrics",
    "Objective",
    "PositiveAdvantageObjective",
    "REPORObjective",
    "SAPOObjective",
    "STAREObjective",
    "aggregate",
    "counter_uniform",
    "entropy_bonus",
    "finish_metrics",
    "kl_loss",
    "kl_penalised_rewards",
    "kl_penalty",
    "masked_mean_metric",
    "merge_metrics",
    "mismatch_metrics",
    "peak_entropy_mask",
    "reduces_by_max",
]
