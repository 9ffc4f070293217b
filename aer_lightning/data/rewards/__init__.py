"""Rewards: what a completion is worth. Importing this package imports neither torch nor sympy."""

from aer_lightning.data.rewards.base import Grade, Grader, Outcome
from aer_lightning.data.rewards.combine import Reward, Rewards
from aer_lightning.data.rewards.functions import Correctness, Format, HttpReward, Length, PythonFunction, RewardFunction, RewardRequest
from aer_lightning.data.rewards.graders import ChoiceGrader, ExactGrader, QuantityGrader
from aer_lightning.data.rewards.math import MathGrader
from aer_lightning.data.rewards.outcomes import OutcomeLimits, VerifierOutcomeError, outcome_counts, outcome_rates
from aer_lightning.data.rewards.pool import VerifierError, VerifierPool
from aer_lightning.data.rewards.verifier import Verifier

__all__ = [
    "ChoiceGrader",
    "Correctness",
    "ExactGrader",
    "Format",
    "Grade",
    "Grader",
    "HttpReward",
    "Length",
    "MathGrader",
    "Outcome",
    "OutcomeLimits",
    "PythonFunction",
    "QuantityGrader",
    "Reward",
    "RewardFunction",
    "RewardRequest",
    "Rewards",
    "Verifier",
    "VerifierError",
    "VerifierOutcomeError",
    "VerifierPool",
    "outcome_counts",
    "outcome_rates",
]
