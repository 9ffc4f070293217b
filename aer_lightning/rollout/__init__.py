"""What everyone passes on: samples, rollouts, batches and their sizes. Ground floor: needs torch only, and ``Outcome`` not even that."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aer_lightning.rollout.batch import RolloutBatch, RolloutInfo, collate
    from aer_lightning.rollout.evaluation import EvaluationBatch
    from aer_lightning.rollout.outcome import Outcome
    from aer_lightning.rollout.rollout import Rollout
    from aer_lightning.rollout.sample import Sample
    from aer_lightning.rollout.sizes import Sizes

__all__ = ["EvaluationBatch", "Outcome", "Rollout", "RolloutBatch", "RolloutInfo", "Sample", "Sizes", "collate"]
_HOMES = {
    "RolloutBatch": "batch",
    "RolloutInfo": "batch",
    "collate": "batch",
    "EvaluationBatch": "evaluation",
    "Outcome": "outcome",
    "Rollout": "rollout",
    "Sample": "sample",
    "Sizes": "sizes",
}


def __getattr__(name: str) -> Any:
    """Imported at the first use: the verifier's worker processes need ``Outcome`` and must not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
