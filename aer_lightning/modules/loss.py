"""A pack's share of a step's loss: the objective, minus lambda(q) times entropy, plus beta times the KL to the reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aer_lightning.algorithms.objectives import (
    CovarianceStatistics,
    EntropyScope,
    ImportanceWeights,
    KLEstimator,
    LossInputs,
    Metrics,
    Objective,
    entropy_bonus,
    kl_loss,
)
from aer_lightning.algorithms.objectives.metrics import masked_mean_metric
from aer_lightning.modules.network import PolicyNetwork
from aer_lightning.rollout import Pack, RolloutBatch


@dataclass(frozen=True)
class StepLoss:
    """Policy loss - (1 / N_tok) sum lambda(q) H + beta KL, of one pack over the counts of the whole optimizer step.

    The losses of all packs and ranks add up to the step's; means of means never occur.

    Attributes:
        objective: the policy loss.
        importance: correction for the difference between the engine's and the trainer's probabilities, or None.
        kl_weight: beta of the KL in the loss; 0 for none.
        kl_estimator: k2 or k3.
    """

    objective: Objective
    importance: ImportanceWeights | None
    kl_weight: float = 0.0
    kl_estimator: KLEstimator = "k3"

    def __call__(
        self, network: PolicyNetwork, batch: RolloutBatch, pack: Pack, world_size: int
    ) -> tuple[Tensor, Metrics, tuple[Tensor, Tensor]]:
        """Return the loss, its metrics as sums and counts, and log-probability and entropy of the completion tokens, [N] each, detached."""
        scope = EntropyScope.of(batch.scalars)
        flat_logprob, flat_entropy, *top = network.score(pack, batch.info.temperature, scope.top())
        measured = (flat_logprob.detach(), flat_entropy.detach())
        if not len(pack.index):  # another rank has a pack more: take part, and count nothing
            return 0.0 * sum((t.sum() for t in (flat_logprob, flat_entropy, *top)), flat_logprob.new_zeros(())), {}, measured
        logprob, entropy = pack.pad(flat_logprob), pack.pad(flat_entropy)
        inputs = self.inputs(batch, pack, logprob, entropy)
        metrics: Metrics = {}
        if self.importance is not None:
            inputs, metrics = self.importance.apply(inputs)
        loss, objective_metrics = self.objective(inputs)
        regularised = pack.pad(top[0]) if top else entropy
        regularised_mask = scope.mask(regularised, pack.entropy_mask)
        bonus = entropy_bonus(regularised, regularised_mask, batch.entropy_coefficient[pack.index], batch.num_tokens)
        if not scope.whole:
            metrics["regularised_entropy"] = masked_mean_metric(regularised, regularised_mask)
        total = loss - bonus
        metrics |= objective_metrics
        if self.kl_weight:
            kl, kl_metrics = kl_loss(inputs, self.kl_estimator, getattr(self.objective, "aggregation", "token_mean"))
            total = total + self.kl_weight * kl
            metrics |= kl_metrics
        # Summed over the rollout's packs and ranks these counts give the number of optimizer steps.
        share = torch.tensor(1.0 / (sum(1 for p in batch.packs if p) * world_size), device=total.device)
        parts = {"loss": total, "policy_loss": loss, "entropy_bonus": bonus}
        return total, metrics | {name: (part.detach(), share) for name, part in parts.items()}, measured

    @staticmethod
    def inputs(batch: RolloutBatch, pack: Pack, logprob: Tensor, entropy: Tensor) -> LossInputs:
        """What the objective reads; the old log-probability is the current one where the training forward is the scoring pass."""
        return LossInputs(
            logprob=logprob,
            old_logprob=pack.old_logprob if pack.old_logprob is not None else logprob.detach(),
            advantage=batch.advantage[pack.index],
            mask=pack.loss_mask,
            behaviour_logprob=pack.behaviour_logprob,
            reference_logprob=pack.reference_logprob,
            num_tokens=batch.num_loss_tokens,
            num_sequences=batch.num_sequences,
            max_tokens=batch.max_tokens,
            seed=batch.info.index,
            sequence_index=batch.sequence_index[pack.index],
            covariance=CovarianceStatistics(**batch.covariance) if batch.covariance else None,
            entropy=entropy.detach(),
            scalars=batch.scalars,
        )
