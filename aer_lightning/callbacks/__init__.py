"""AER as a stack of callbacks, the baselines beside them, and what a run reports."""

from aer_lightning.callbacks.aent import AEntCoefficient
from aer_lightning.callbacks.difficulty import DifficultyCoefficient
from aer_lightning.callbacks.entropy_anchor import EntropyAnchor
from aer_lightning.callbacks.fixed_coefficient import FixedCoefficient
from aer_lightning.callbacks.global_coefficient import GlobalCoefficient
from aer_lightning.callbacks.skywork import SkyworkCoefficient

__all__ = [
    "AEntCoefficient",
    "DifficultyCoefficient",
    "EntropyAnchor",
    "FixedCoefficient",
    "GlobalCoefficient",
    "SkyworkCoefficient",
]
