"""Engines: prompts to completions. Both import vLLM, transformers and torch only when they start, so that this package stays light."""

from aer_lightning.data.engines.transformers import TransformersEngine
from aer_lightning.data.engines.vllm import VLLMEngine

__all__ = ["TransformersEngine", "VLLMEngine"]
