"""Where prompts come from: Countdown, arithmetic, JSONL files, the Hugging Face hub, and presets for benchmarks. No heavy imports."""

from aer_lightning.data.prompts.arithmetic import ArithmeticPrompts
from aer_lightning.data.prompts.base import Prompt, PromptSource
from aer_lightning.data.prompts.benchmarks import AIME24, AIME25, AMC23, GSM8K, MATH500
from aer_lightning.data.prompts.countdown import CountdownPrompts
from aer_lightning.data.prompts.hub import HubPrompts
from aer_lightning.data.prompts.jsonl import JsonlPrompts

__all__ = [
    "AIME24",
    "AIME25",
    "AMC23",
    "GSM8K",
    "MATH500",
    "ArithmeticPrompts",
    "CountdownPrompts",
    "HubPrompts",
    "JsonlPrompts",
    "Prompt",
    "PromptSource",
]
