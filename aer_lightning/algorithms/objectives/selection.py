"""Selecting exactly k tokens of an optimizer step, the same ones whatever the micro-batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from aer_lightning.algorithms.objectives.inputs import CovarianceStatistics, LossInputs


def sequence_index(inputs: LossInputs) -> Tensor:
    """[B] place of each response in the rollout; 0, 1, ... where it was not given."""
    if inputs.sequence_index is not None:
        return inputs.sequence_index
    return torch.arange(inputs.mask.shape[0], device=inputs.mask.device)


def judged_logprob(inputs: LossInputs) -> Tensor:
    """[B, T] what the selection reads: the log-probability that the statistics rest on."""
    return (inputs.logprob if inputs.covariance is None else inputs.old_logprob).detach()


def token_order(sequence_index: Tensor, length: int) -> Tensor:
    """[B, length] int64 place of each token in the rollout, by response and then by position: the order among equals."""
    return sequence_index.to(torch.int64)[:, None] * 2**20 + torch.arange(length, device=sequence_index.device)[None]


def largest(values: Tensor, order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Smallest value and largest order among the ``count`` largest of ``values``; of equal values those of the lowest order are taken.

    Args:
        values: [N].
        order: [N] int64, all different.
        count: from 1 to N.

    Returns:
        ``threshold`` and ``tie``: exactly ``count`` tokens fulfil values > threshold or (values == threshold and order <= tie).
    """
    threshold = values.topk(count).values[-1]
    room = count - int((values > threshold).sum())
    return threshold, order[values == threshold].sort().values[room - 1]


def is_selected(values: Tensor, order: Tensor, statistics: CovarianceStatistics) -> Tensor:
    """Bool like ``values``: whether a token is among the largest; see ``largest``."""
    return (values > statistics.threshold) | ((values == statistics.threshold) & (order <= int(statistics.tie)))
