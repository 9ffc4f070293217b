"""The gradient between backward and step: its norm, computed once, and the clipping that uses it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """2-norm over all parameters' gradients and all ranks' shards, a scalar; collective under sharding."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def loss_scale(precision_plugin: Any, optimizer: Any) -> float:
    """Factor that the gradients still carry when they are clipped: that of fp16 scaling where the optimizer unscales in its step."""
    scaler = getattr(precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return 1.0
    return float(scaler.get_scale())


def clip(parameters: Iterable[nn.Parameter], norm: Tensor, value: float, algorithm: str | None, scale: float = 1.0) -> None:
    """Clip in place, as ``trainer.gradient_clip_val`` and ``gradient_clip_algorithm`` ask for.

    Args:
        parameters: with gradients.
        norm: their norm, as they are.
        value: limit on the norm or on each element, for gradients without a scale.
        algorithm: ``norm`` (also if None) or ``value``.
        scale: factor that the gradients carry.
    """
    parameters = list(parameters)
    if algorithm == "value":
        torch.nn.utils.clip_grad_value_(parameters, value * scale)
    else:
        torch.nn.utils.clip_grads_with_norm_(parameters, value * scale, norm)
