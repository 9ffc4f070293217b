"""What everyone passes on: samples, rollouts, batches and their sizes. Ground floor: needs torch only."""

from aer_lightning.rollout.batch import RolloutBatch, RolloutInfo, collate
from aer_lightning.rollout.evaluation import EvaluationBatch
from aer_lightning.rollout.outcome import Outcome
from aer_lightning.rollout.rollout import Rollout
from aer_lightning.rollout.sample import Sample
from aer_lightning.rollout.sizes import Sizes

__all__ = ["EvaluationBatch", "Outcome", "Rollout", "RolloutBatch", "RolloutInfo", "Sample", "Sizes", "collate"]
