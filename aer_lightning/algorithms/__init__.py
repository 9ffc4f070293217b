"""The mathematics of AER and its rivals: pure functions and small validated dataclasses. Needs torch only, no Lightning, no transformers.

One step of anybody's trainer::

    controller = PIController()
    inputs = LossInputs(logprob=..., old_logprob=..., advantage=..., mask=..., num_tokens=..., num_sequences=..., max_tokens=...)
    loss, metrics = ClipObjective()(inputs)
    weight = difficulty_weight(group_accuracy)  # [B]
    loss = loss - entropy_bonus(entropy, inputs.mask, alpha * weight, inputs.num_tokens)
    alpha = controller.update(alpha, step_entropy, target_entropy(initial_entropy, tau=0.4))
"""

from aer_lightning.algorithms.advantages import AdvantageEstimator, compute_advantages, is_mixed_group, soft_overlong_penalty
from aer_lightning.algorithms.controllers import (
    AEntController,
    Controller,
    ExponentialAverage,
    PIController,
    ProportionalController,
    SignController,
    SkyworkController,
    target_entropy,
)
from aer_lightning.algorithms.difficulty import difficulty_weight, normalisation
from aer_lightning.algorithms.feedback import (
    ClipHighRule,
    FeedbackRule,
    FeedbackState,
    GateRule,
    PositiveWeightRule,
    SureWeightRule,
    ZetaRule,
)
from aer_lightning.algorithms.objectives import (
    CISPOObjective,
    ClipCovObjective,
    ClipObjective,
    CovarianceStatistics,
    EntroPICObjective,
    EntropyScope,
    GMPOObjective,
    GSPOObjective,
    ImportanceWeights,
    KLCovObjective,
    LossInputs,
    Metrics,
    Objective,
    PositiveAdvantageObjective,
    REPORObjective,
    SAPOObjective,
    STAREObjective,
    entropy_bonus,
    finish_metrics,
    kl_loss,
    kl_penalised_rewards,
    kl_penalty,
    merge_metrics,
    peak_entropy_mask,
)
from aer_lightning.algorithms.pass_at_k import pass_at_k_per_problem
from aer_lightning.algorithms.self_anchored import SelfAnchoredController

__all__ = [
    "AEntController",
    "AdvantageEstimator",
    "CISPOObjective",
    "ClipCovObjective",
    "ClipHighRule",
    "ClipObjective",
    "Controller",
    "CovarianceStatistics",
    "EntroPICObjective",
    "EntropyScope",
    "ExponentialAverage",
    "FeedbackRule",
    "FeedbackState",
    "GMPOObjective",
    "GSPOObjective",
    "GateRule",
    "ImportanceWeights",
    "KLCovObjective",
    "LossInputs",
    "Metrics",
    "Objective",
    "PIController",
    "PositiveAdvantageObjective",
    "PositiveWeightRule",
    "ProportionalController",
    "REPORObjective",
    "SAPOObjective",
    "STAREObjective",
    "SelfAnchoredController",
    "SignController",
    "SkyworkController",
    "SureWeightRule",
    "ZetaRule",
    "compute_advantages",
    "difficulty_weight",
    "entropy_bonus",
    "finish_metrics",
    "is_mixed_group",
    "kl_loss",
    "kl_penalised_rewards",
    "kl_penalty",
    "merge_metrics",
    "normalisation",
    "pass_at_k_per_problem",
    "peak_entropy_mask",
    "soft_overlong_penalty",
    "target_entropy",
]
