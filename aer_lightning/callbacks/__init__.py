"""AER as a stack of callbacks, the baselines beside them, and what a run reports."""

from aer_lightning.callbacks.adapo import ADAPOClip
from aer_lightning.callbacks.aent import AEntCoefficient
from aer_lightning.callbacks.difficulty import DifficultyCoefficient
from aer_lightning.callbacks.entropic import EntroPICWeight
from aer_lightning.callbacks.entropy_anchor import EntropyAnchor
from aer_lightning.callbacks.fixed_coefficient import FixedCoefficient
from aer_lightning.callbacks.global_coefficient import GlobalCoefficient
from aer_lightning.callbacks.positive_advantage import PositiveAdvantageWeight
from aer_lightning.callbacks.repo import REPORScale
from aer_lightning.callbacks.siren import SIRENCoefficient
from aer_lightning.callbacks.skywork import SkyworkCoefficient
from aer_lightning.callbacks.stare import STAREGate

__all__ = [
    "ADAPOClip",
    "AEntCoefficient",
    "DifficultyCoefficient",
    "EntroPICWeight",
    "EntropyAnchor",
    "FixedCoefficient",
    "GlobalCoefficient",
    "PositiveAdvantageWeight",
    "REPORScale",
    "SIRENCoefficient",
    "STAREGate",
    "SkyworkCoefficient",
]
