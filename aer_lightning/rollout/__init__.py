"""What everyone passes on: samples, rollouts, batches, sizes and packs. Ground floor: needs torch only, and ``Outcome`` not even that."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aer_lightning.rollout.batch import RolloutBatch, RolloutInfo
    from aer_lightning.rollout.evaluation import EvaluationBatch
    from aer_lightning.rollout.measurement import measure
    from aer_lightning.rollout.outcome import Outcome
    from aer_lightning.rollout.pack import Pack, make_pack
    from aer_lightning.rollout.packing import deal, padding_share, plan_packs
    from aer_lightning.rollout.rollout import Rollout
    from aer_lightning.rollout.sample import Sample
    from aer_lightning.rollout.sizes import Sizes

__all__ = [
    "EvaluationBatch",
    "Outcome",
    "Pack",
    "Rollout",
    "RolloutBatch",
    "RolloutInfo",
    "Sample",
    "Sizes",
    "deal",
    "make_pack",
    "measure",
    "padding_share",
    "plan_packs",
]
_HOMES = {
    "batch": ("RolloutBatch", "RolloutInfo"),
    "evaluation": ("EvaluationBatch",),
    "measurement": ("measure",),
    "outcome": ("Outcome",),
    "pack": ("Pack", "make_pack"),
    "packing": ("deal", "padding_share", "plan_packs"),
    "rollout": ("Rollout",),
    "sample": ("Sample",),
    "sizes": ("Sizes",),
}


def __getattr__(name: str) -> Any:
    """Imported at the first use: the verifier's worker processes need ``Outcome`` and must not load torch."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
