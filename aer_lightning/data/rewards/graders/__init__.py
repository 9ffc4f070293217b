"""Small graders beside :class:`~aer_lightning.data.rewards.MathGrader`: quantities, multiple choice, exact text."""

from aer_lightning.data.rewards.graders.choice import ChoiceGrader
from aer_lightning.data.rewards.graders.exact import ExactGrader
from aer_lightning.data.rewards.graders.quantity import QuantityGrader

__all__ = ["ChoiceGrader", "ExactGrader", "QuantityGrader"]
