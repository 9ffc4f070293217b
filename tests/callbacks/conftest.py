"""Fabricated batches and the least of a module, so that the entropy stack can be driven rollout by rollout without training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aer_lightning.rollout import RolloutBatch, RolloutInfo, Sample


def make_batch(
    entropy: float = 0.4, *, index: int = 0, accuracy: Any = (0.0, 0.5), tokens: Any = None, first: bool = True, last: bool = True
):
    """One batch of a sequence per accuracy (a multiple of .05), with ``tokens`` response tokens each (2, 3, 4, ... if left out)."""
    size = len(accuracy)
    tokens = list(tokens or range(2, size + 2))
    by_correct = [float(sum(n for n, g in zip(tokens, accuracy, strict=True) if round(20 * g) == c)) for c in range(21)]
    samples = [
        Sample(f"p{i}", "", 0, i, [1], [1] * n, torch.zeros(n), "stop", entropy=torch.full((n,), entropy), old_logprob=torch.zeros(n))
        for i, n in enumerate(tokens)
    ]
    return RolloutBatch(
        samples=samples,
        packs=[list(range(size))],
        advantage=torch.zeros(size),
        reward=torch.zeros(size),
        group_accuracy=torch.tensor(accuracy, dtype=torch.float32),
        sequence_index=torch.arange(size),
        response_lengths=torch.tensor(tokens),
        num_tokens=float(sum(tokens)),
        num_loss_tokens=float(sum(tokens)),
        num_sequences=float(size),
        max_tokens=8,
        info=RolloutInfo(index, index, 1.0, entropy, int(sum(tokens)), size, tokens_by_correct=by_correct),
        first=first,
        last=last,
        entropy_coefficient=torch.zeros(size),
    )


class Stack:
    """Runs callbacks over batches in the order in which the trainer calls them, and keeps what they log."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.logged: dict[str, float] = {}

    def log_dict(self, values: dict[str, float], **_: Any) -> None:
        self.logged |= values

    def step(self, callbacks: list[Any], batch: RolloutBatch, batch_idx: int = 0) -> RolloutBatch:
        """One optimizer step; what it carries into ``training_step``."""
        for callback in callbacks:
            callback.on_train_batch_start(None, self, batch, batch_idx)
        for callback in callbacks:
            callback.on_train_batch_end(None, self, None, batch, batch_idx)
        return batch

    def rollouts(self, callbacks: list[Any], entropies: Any, **kwargs: Any) -> list[dict[str, float]]:
        """One rollout of one optimizer step for each entropy; what was logged of each."""
        rows = []
        for index, entropy in enumerate(entropies):
            self.logged = {}
            self.step(callbacks, make_batch(entropy, index=index, **kwargs))
            rows.append(self.logged)
        return rows


@pytest.fixture
def stack() -> Stack:
    """See ``Stack``."""
    return Stack()


@pytest.fixture(name="make_batch")
def make_batch_fixture() -> Any:
    """See ``make_batch``."""
    return make_batch
