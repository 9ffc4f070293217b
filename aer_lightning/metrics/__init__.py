"""torchmetrics over problems: pass@k, avg@k, maj@k and the diversity of answers, each with a functional twin."""

from aer_lightning.metrics.avg_at_k import AvgAtK, avg_at_k
from aer_lightning.metrics.distinct_answers import DistinctAnswers, distinct_answers
from aer_lightning.metrics.maj_at_k import MajAtK, maj_at_k
from aer_lightning.metrics.pass_at_k import PassAtK, pass_at_k

__all__ = ["AvgAtK", "DistinctAnswers", "MajAtK", "PassAtK", "avg_at_k", "distinct_answers", "maj_at_k", "pass_at_k"]
