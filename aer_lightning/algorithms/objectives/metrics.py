"""Metrics of an objective as (sum, count) pairs, so that micro-batches and ranks add up to what one batch would give."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# A name that ends in "_max" holds (maximum, 1) and is merged by the maximum; every other one holds (sum, count) and is added.
Metrics = dict[str, tuple[Tensor, Tensor]]


def reduces_by_max(name: str) -> bool:
    """Whether a metric is merged by its maximum (over micro-batches and ranks) instead of by sums."""
    return name.endswith("_max")


def masked_mean_metric(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(sum of ``values`` where ``mask``, number of such places), detached; ``values`` may be bool."""
    detached = values.detach()
    numbers = detached if detached.is_floating_point() else detached.to(torch.float32)
    return torch.where(mask, numbers, torch.zeros_like(numbers)).sum(), mask.sum().to(numbers.dtype)


def masked_max_metric(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(largest of ``values`` where ``mask``, 1), detached; minus infinity where nothing is masked in, which no maximum keeps."""
    numbers = torch.where(mask, values.detach(), torch.full_like(values, float("-inf")))
    top = numbers.max() if numbers.numel() else numbers.new_tensor(float("-inf"))
    return top, torch.ones_like(top)


def merge_metrics(*parts: Metrics) -> Metrics:
    """Merge the metrics of several micro-batches or ranks. A name may be missing from some of them."""
    merged: Metrics = {}
    for part in parts:
        for name, (total, count) in part.items():
            if name not in merged:
                merged[name] = (total, count)
            elif reduces_by_max(name):
                merged[name] = (torch.maximum(merged[name][0], total), count)
            else:
                merged[name] = (merged[name][0] + total, merged[name][1] + count)
    return merged


def finish_metrics(metrics: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Turn merged sums into numbers to log.

    A mean over nothing is left out. From the first and second moment of the importance weights comes
    ``importance_ess`` = mean(w)^2 / mean(w^2), the effective share of the samples, in (0, 1]
    (Kish's effective sample size divided by the number of samples).
    """
    values: dict[str, float] = {}
    for name, (total, count) in metrics.items():
        if reduces_by_max(name):
            if bool(torch.isfinite(total)):
                values[name] = float(total)
        elif float(count) > 0:
            values[name] = float(total) / float(count)
    second = values.pop("importance_weight_squared", None)
    if second:
        values["importance_ess"] = values["importance_weight"] ** 2 / second
    return values
