"""Adaptive Entropy Regularization (AER) for reinforcement learning of language models with verifiable rewards.

The main names are had from here, each imported when it is first used: ``from aer_lightning import PolicyModule``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "algorithms.objectives": ("ClipCovObjective", "ClipObjective", "KLCovObjective"),
    "callbacks": ("DifficultyCoefficient", "EntropyAnchor", "FixedCoefficient", "GlobalCoefficient"),
    "callbacks.reports": ("reports",),
    "data.datamodule": ("RolloutDataModule",),
    "data.engines": ("TransformersEngine", "VLLMEngine"),
    "data.prompts": ("CountdownPrompts", "HubPrompts", "JsonlPrompts", "Prompt"),
    "data.rewards": ("Grade", "MathGrader", "Outcome", "Verifier"),
    "modules.policy": ("PolicyModule",),
}
_MODULE = {name: f"aer_lightning.{home}" for home, names in _HOMES.items() for name in names}
__all__ = [  # noqa: RUF022 (the main ones first)
    "PolicyModule",
    "RolloutDataModule",
    "EntropyAnchor",
    "GlobalCoefficient",
    "DifficultyCoefficient",
    "FixedCoefficient",
    "reports",
    "ClipObjective",
    "ClipCovObjective",
    "KLCovObjective",
    "TransformersEngine",
    "VLLMEngine",
    "Prompt",
    "CountdownPrompts",
    "JsonlPrompts",
    "HubPrompts",
    "Grade",
    "MathGrader",
    "Outcome",
    "Verifier",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
