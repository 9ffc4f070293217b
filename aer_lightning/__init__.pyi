"""Names of ``__init__.py`` for type checkers; it imports them when they are used."""

from aer_lightning.algorithms.objectives import ClipCovObjective as ClipCovObjective
from aer_lightning.algorithms.objectives import ClipObjective as ClipObjective
from aer_lightning.algorithms.objectives import KLCovObjective as KLCovObjective
from aer_lightning.callbacks import DifficultyCoefficient as DifficultyCoefficient
from aer_lightning.callbacks import EntropyAnchor as EntropyAnchor
from aer_lightning.callbacks import FixedCoefficient as FixedCoefficient
from aer_lightning.callbacks import GlobalCoefficient as GlobalCoefficient
from aer_lightning.callbacks.reports import reports as reports
from aer_lightning.data.datamodule import RolloutDataModule as RolloutDataModule
from aer_lightning.data.engines import TransformersEngine as TransformersEngine
from aer_lightning.data.engines import VLLMEngine as VLLMEngine
from aer_lightning.data.prompts import CountdownPrompts as CountdownPrompts
from aer_lightning.data.prompts import HubPrompts as HubPrompts
from aer_lightning.data.prompts import JsonlPrompts as JsonlPrompts
from aer_lightning.data.prompts import Prompt as Prompt
from aer_lightning.data.rewards import Grade as Grade
from aer_lightning.data.rewards import MathGrader as MathGrader
from aer_lightning.data.rewards import Outcome as Outcome
from aer_lightning.data.rewards import Verifier as Verifier
from aer_lightning.modules.policy import PolicyModule as PolicyModule

__version__: str
