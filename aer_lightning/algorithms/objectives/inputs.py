"""What a policy objective reads, and the protocol that every one keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from aer_lightning.algorithms.objectives.metrics import Metrics

# exp(20) is 5e8: far outside every clip range, and its square still fits in fp32.
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class CovarianceStatistics:
    """What an objective that selects tokens has to know of all tokens of an optimizer step. Scalars, as tensors or numbers.

    Attributes:
        advantage_mean: mean advantage over the response tokens.
        logprob_mean: mean log-probability over the response tokens, nat.
        drop_probability: Clip-Cov: probability with which a candidate token is dropped.
        threshold: KL-Cov: tokens with a larger covariance are selected; STARE: those with a larger surprisal.
        tie: of the tokens that equal ``threshold``, those whose place (see ``token_order``) is at most this are selected, too.
    """

    advantage_mean: Tensor | float
    logprob_mean: Tensor | float
    drop_probability: Tensor | float = 0.0
    threshold: Tensor | float = float("inf")
    tie: Tensor | float = -1


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """One micro-batch of B responses, padded to T tokens, and the sizes of the optimizer step that it is part of.

    A loss is a **sum over this micro-batch divided by a size of the whole step**, so that adding the losses of all
    micro-batches and ranks gives the loss of the step; means of means never occur.

    Attributes:
        logprob: [B, T] log-probability of each sampled token under the current policy, in nat, with gradient.
        old_logprob: [B, T] the same under the policy that began the rollout's updates, without gradient.
        advantage: [B] one advantage for each response; every token of a response has the same.
        mask: [B, T] bool, True on the response tokens that count. Values elsewhere are never used.
        num_tokens: response tokens of the optimizer step over all micro-batches and ranks.
        num_sequences: responses of the optimizer step over all micro-batches and ranks.
        max_tokens: the generation limit in tokens, for ``constant_length`` aggregation.
        behaviour_logprob: [B, T] as the engine that sampled the tokens reported it, or None.
        reference_logprob: [B, T] under the frozen reference policy, or None.
        token_weight: [B, T] factor of each token's policy loss without gradient (see ``ImportanceWeights``), or None for 1.
        seed: seed of random selections; a choice depends on it, on ``sequence_index`` and on the position alone.
        sequence_index: [B] int64, the place of each response in the rollout; None counts from 0, which makes random
            selections depend on how the step was split.
        covariance: statistics of the whole step for objectives that select tokens by them; None takes those of this micro-batch.
        entropy: [B, T] entropy of each token's distribution without gradient, nat, for objectives that select tokens by it, or None.
        scalars: numbers that feedback rules move once a rollout, by name; an objective says in ``reads`` which it knows.
    """

    logprob: Tensor
    old_logprob: Tensor
    advantage: Tensor
    mask: Tensor
    num_tokens: float
    num_sequences: float
    max_tokens: int
    behaviour_logprob: Tensor | None = None
    reference_logprob: Tensor | None = None
    token_weight: Tensor | None = None
    seed: int = 0
    sequence_index: Tensor | None = None
    covariance: CovarianceStatistics | None = None
    entropy: Tensor | None = None
    scalars: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.logprob.shape
        if len(shape) != 2:
            raise ValueError(f"logprob must be [B, T], got {tuple(shape)}")
        for name in ("old_logprob", "mask", "behaviour_logprob", "reference_logprob", "token_weight", "entropy"):
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} must be [B, T] = {tuple(shape)}, got {tuple(value.shape)}")
        for name in ("advantage", "sequence_index"):
            value = getattr(self, name)
            if value is not None and value.shape != shape[:1]:
                raise ValueError(f"{name} must be [B] = {tuple(shape[:1])}, got {tuple(value.shape)}")
        if self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool, got {self.mask.dtype}")
        if self.num_tokens < 0 or self.num_sequences < 0:
            raise ValueError("num_tokens and num_sequences count the whole optimizer step and cannot be negative")

    def log_ratio(self) -> Tensor:
        """[B, T] log(pi / pi_old), 0 outside the mask, held within +-20 nat so that its exponential is finite."""
        return bounded(self.raw_log_ratio())

    def raw_log_ratio(self) -> Tensor:
        """[B, T] the same as it is, for sums over a response, which are bounded as a whole."""
        return masked_difference(self.logprob, self.old_logprob, self.mask)


def masked_difference(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """[B, T] ``first - second`` where ``mask``, 0 elsewhere. A NaN in the padding does not leak."""
    zero = torch.zeros((), dtype=first.dtype, device=first.device)
    return torch.where(mask, first, zero) - torch.where(mask, second, zero)


def bounded(log_ratio: Tensor) -> Tensor:
    """The logarithm of a ratio held within +-20 nat."""
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


@runtime_checkable
class Objective(Protocol):
    """A policy objective: reads a micro-batch, returns what is minimised and what is logged; no side effects."""

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """Return (loss, metrics): a scalar with gradient, this micro-batch's share of the step's loss, and detached sums."""
        ...
