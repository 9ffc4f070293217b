"""Engines: prompts to completions. The classes are imported when first asked for, so that this package stays light."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aer_lightning.data.engines.transformers import TransformersEngine
    from aer_lightning.data.engines.vllm import VLLMEngine

__all__ = ["TransformersEngine", "VLLMEngine"]


def __getattr__(name: str) -> Any:
    if name == "TransformersEngine":
        from aer_lightning.data.engines.transformers import TransformersEngine

        return TransformersEngine
    if name == "VLLMEngine":
        from aer_lightning.data.engines.vllm import VLLMEngine

        return VLLMEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
