"""Sampled completions of a run as JSONL, so that one can read what the policy writes."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from aer_lightning.callbacks.run_files import RowLog
from aer_lightning.callbacks.tables import log_table
from aer_lightning.errors import ConfigError
from aer_lightning.rollout import RolloutBatch, Sample


class SampleLog(RowLog):
    """Appends completions of a rollout to ``<run folder>/samples.jsonl`` once it has been trained on; a table where a logger has them.

    One line each: ``rollout``, ``id``, ``label``, ``prompt``, ``completion``, ``reward`` (as the advantage sees it, shaping included),
    ``score`` (the verdict's), ``parts`` (of several rewards), ``outcome``, ``extracted``, ``answer`` (the gold one), ``advantage``,
    ``group_accuracy``, ``coefficient`` (lambda(q)), ``entropy`` (mean over the completion, nat per token), ``tokens``,
    ``finish_reason``, and with ``token_entropies`` the text of each token and its entropy in nat (``token_texts``,
    ``token_entropies``), for completions of at most 512 tokens. Written by rank zero, from its own share of the rollout.

    Args:
        every: write from every so many rollouts; 0 writes none.
        limit: completions per rollout, spread evenly over its prompts; null for all.
        token_entropies: write the entropy of every token, too.

    Raises:
        ConfigError: ``every`` is negative or ``limit`` below 1.
    """

    file_name = "samples.jsonl"

    def __init__(self, every: int = 10, limit: int | None = 16, token_entropies: bool = True) -> None:
        super().__init__()
        if every < 0:
            raise ConfigError(f"samples.every: must be at least 1, or 0 to write no samples, got {every}")
        if limit is not None and limit < 1:
            raise ConfigError(f"samples.limit: must be at least 1, or null for all completions, got {limit}")
        self.every, self.limit, self.token_entropies = every, limit, token_entropies

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write after a rollout's last optimizer step."""
        if not self.every or not trainer.is_global_zero or not isinstance(batch, RolloutBatch):
            return
        if not batch.last or batch.info.index % self.every:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        kept = spread(data.last_samples, self.limit)
        rows = [describe(s, batch.info.index, data.tokenizer) | (tokens(s, data.tokenizer) if self.token_entropies else {}) for s in kept]
        self.append_rows(trainer, rows)
        log_table(trainer, "samples", [{k: v for k, v in row.items() if not k.startswith("token_")} for row in rows])


def spread(samples: list[Sample], limit: int | None) -> list[Sample]:
    """At most ``limit`` samples at even distances in the order of the rollout, so that as many prompts as possible are seen."""
    ordered = sorted(samples, key=lambda s: s.sequence)
    if limit is None or limit >= len(ordered):
        return ordered
    return [ordered[i * len(ordered) // limit] for i in range(limit)]


def describe(sample: Sample, rollout: int, tokenizer: Any) -> dict[str, Any]:
    """A sample as a plain row."""
    entropy = sample.entropy
    return {
        "rollout": rollout,
        "id": sample.prompt_id,
        "label": sample.label,
        "prompt": tokenizer.decode(sample.prompt_ids, skip_special_tokens=False),
        "completion": sample.text,
        "reward": sample.reward,
        "score": sample.score,
        "parts": sample.parts,
        "outcome": sample.outcome,
        "extracted": sample.extracted,
        "answer": sample.answer,
        "advantage": sample.advantage,
        "group_accuracy": sample.group_accuracy,
        "entropy": None if entropy is None or not len(entropy) else float(entropy.double().mean()),
        "tokens": len(sample.token_ids),
        "finish_reason": sample.finish_reason,
        "coefficient": sample.coefficient,
    }


def tokens(sample: Sample, tokenizer: Any, most: int = 512) -> dict[str, Any]:
    """Text and entropy (nat) of each token of a completion of at most ``most`` tokens; nothing of others."""
    if sample.entropy is None or len(sample.token_ids) > most:
        return {}
    texts = [tokenizer.decode([i], skip_special_tokens=False) for i in sample.token_ids]
    return {"token_texts": texts, "token_entropies": [round(h, 4) for h in sample.entropy.double().tolist()]}
