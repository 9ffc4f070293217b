"""Where prompts come from: Countdown, JSONL files and the Hugging Face hub. No heavy imports."""

from aer_lightning.data.prompts.base import Prompt, PromptSource
from aer_lightning.data.prompts.countdown import CountdownPrompts
from aer_lightning.data.prompts.hub import HubPrompts
from aer_lightning.data.prompts.jsonl import JsonlPrompts

__all__ = ["CountdownPrompts", "HubPrompts", "JsonlPrompts", "Prompt", "PromptSource"]
