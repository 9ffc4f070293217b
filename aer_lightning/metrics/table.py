"""What an evaluation reports: pass@k and its companions for each source, overall and by label, reduced over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchmetrics import Metric

from aer_lightning.metrics.distinct_answers import DistinctAnswers
from aer_lightning.metrics.maj_at_k import MajAtK
from aer_lightning.metrics.pass_at_k import PassAtK
from aer_lightning.metrics.problem_mean import ProblemMean
from aer_lightning.rollout import Outcome

if TYPE_CHECKING:
    from aer_lightning.rollout import EvaluationBatch


class Share(ProblemMean):
    """Mean over problems of a figure that is itself a mean over a problem's samples, such as length or truncation."""

    def update(self, values: Tensor) -> None:
        """Add problems, [P]."""
        self._add(values, None)


class SourceTable:
    """The metrics of one source.

    Args:
        labels: of the source, in the order of reporting; by-label figures only where there are two or more.
        ks: the k of pass@k.
        samples: n, samples per problem; maj@k is reported for n and for each k above 2, where there can be a majority.
        device: where counts are kept and reduced.
    """

    def __init__(self, labels: Sequence[str], ks: Sequence[int], samples: int, device: torch.device | str = "cpu") -> None:
        self.labels = list(labels) if len(labels) > 1 else []
        self.passes = {k: PassAtK(k, standard_error=True) for k in ks}
        self.by_label = {k: PassAtK(k, num_groups=len(self.labels), standard_error=True) for k in ks} if self.labels else {}
        self.majority = {k: MajAtK(k, standard_error=True) for k in sorted({k for k in ks if k > 2} | {samples})}
        self.distinct = DistinctAnswers(standard_error=True)
        self.distinct_correct = DistinctAnswers(correct_only=True, standard_error=True)
        self.shares = {name: Share(standard_error=True) for name in ("response_length", "truncated", *(o.value for o in Outcome))}
        self.reward = Share()
        for metric in self.metrics():
            metric.to(device)

    def metrics(self) -> list[Metric]:
        """Every metric of the table."""
        return [*self.passes.values(), *self.by_label.values(), *self._answers().values(), *self.shares.values(), self.reward]

    def _answers(self) -> dict[str, ProblemMean]:
        """The metrics of answers rather than verdicts, by name."""
        votes = {f"maj@{k}": metric for k, metric in self.majority.items()}
        return {**votes, "distinct": self.distinct, "distinct_correct": self.distinct_correct}

    def update(self, batch: EvaluationBatch) -> None:
        """Count the problems of a batch; an empty batch counts nothing."""
        if not batch.outcomes:
            return
        correct = [[outcome == Outcome.CORRECT.value for outcome in row] for row in batch.outcomes]
        num_correct = torch.tensor([sum(row) for row in correct])
        num_samples = torch.tensor([len(row) for row in correct])
        for metric in self.passes.values():
            metric.update(num_correct, num_samples)
        if self.by_label:
            groups = torch.tensor([self.labels.index(label) for label in batch.labels])
            for metric in self.by_label.values():
                metric.update(num_correct, num_samples, groups)
        for vote in self.majority.values():
            vote.update(batch.answers, correct)
        self.distinct.update(batch.answers)
        self.distinct_correct.update(batch.answers, correct)
        self.shares["response_length"].update(torch.tensor([sum(row) / len(row) for row in batch.lengths]))
        scores = batch.scores or [[float(right) for right in row] for row in correct]
        self.reward.update(torch.tensor([sum(row) / len(row) for row in scores]))
        self.shares["truncated"].update(torch.tensor([sum(row) / len(row) for row in batch.truncated]))
        for outcome in Outcome:
            rates = torch.tensor([sum(o == outcome.value for o in row) / len(row) for row in batch.outcomes])
            self.shares[outcome.value].update(rates)

    def compute(self) -> dict[str, float]:
        """Figure by name; ``<name>_se`` is its standard error over problems. Collective when there are several ranks."""
        values: dict[str, float] = {}
        passes = {f"pass@{k}": metric for k, metric in self.passes.items()}
        for name, metric in {**passes, **self._answers(), **self.shares}.items():
            mean, error = metric.compute()
            values |= {name: float(mean), f"{name}_se": float(error)}
        for k, split in self.by_label.items():
            means, errors = split.compute()
            for label, mean, error in zip(self.labels, means.tolist(), errors.tolist(), strict=True):
                values |= {f"{label}/pass@{k}": mean, f"{label}/pass@{k}_se": error}
        values["reward"] = float(self.reward.compute())
        return {name: value for name, value in values.items() if value == value}  # a figure over no problem is left out


class EvaluationTable:
    """One ``SourceTable`` per source.

    Args:
        plan: (name, labels) of each source.
        ks: the k of pass@k.
        samples: n.
        device: where counts are kept and reduced.
    """

    def __init__(
        self, plan: Sequence[tuple[str, Sequence[str]]], ks: Sequence[int], samples: int, device: torch.device | str = "cpu"
    ) -> None:
        self.sources = {name: SourceTable(labels, ks, samples, device) for name, labels in plan}

    def update(self, batch: EvaluationBatch) -> None:
        """Count a batch."""
        self.sources[batch.source].update(batch)

    def compute(self, prefix: str = "val") -> dict[str, float]:
        """``<prefix>/<source>/<figure>`` for every source and figure."""
        return {f"{prefix}/{name}/{figure}": v for name, table in self.sources.items() for figure, v in table.compute().items()}
