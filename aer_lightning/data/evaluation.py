"""Evaluation as data: n graded samples for each held-out prompt, the same at every evaluation of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aer_lightning.data.collector import Collector
    from aer_lightning.data.engines.base import SamplingParams
    from aer_lightning.data.stream import PromptStream


@dataclass
class EvaluationBatch:
    """Graded completions of some prompts of one source.

    Attributes:
        source: name of the source.
        labels: [P] each prompt's group for reporting.
        prompt_ids: [P] names of the prompts.
        outcomes: [P][n] verdicts, see ``Outcome``.
        answers: [P][n] extracted answers, None where there is none.
        lengths: [P][n] tokens.
        truncated: [P][n] whether the length limit ended the completion.
        rows: one plain dictionary per completion, for files.
    """

    source: str
    labels: list[str] = field(default_factory=list)
    prompt_ids: list[str] = field(default_factory=list)
    outcomes: list[list[str]] = field(default_factory=list)
    answers: list[list[str | None]] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)
    truncated: list[list[bool]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def to(self, *args: Any, **kwargs: Any) -> EvaluationBatch:
        """Itself: there is nothing to move."""
        return self


class EvaluationLoader:
    """A loader over one source: generates when asked for the next batch. Sized, so that Lightning does not prefetch.

    Args:
        collector: returns what generates and grades, starting the engine if it has to.
        stream: the source's usable prompts.
        samples: n, completions per prompt.
        sampling: how to sample.
        batch_prompts: prompts per batch and rank.
        rank, world_size: this rank's share is every ``world_size``-th prompt.
    """

    def __init__(
        self,
        collector: Callable[[], Collector],
        stream: PromptStream,
        samples: int,
        sampling: SamplingParams,
        batch_prompts: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.collector, self.stream, self.samples, self.sampling = collector, stream, samples, sampling
        self.batch_prompts, self.rank, self.world_size = batch_prompts, rank, world_size

    def __len__(self) -> int:
        # The same on every rank, because a batch may involve a collective weight sync.
        return -(-self.stream.usable // (self.batch_prompts * self.world_size))

    def __iter__(self) -> Iterator[EvaluationBatch]:
        prompts = self.stream.all()
        for start in range(0, len(self) * self.batch_prompts * self.world_size, self.batch_prompts * self.world_size):
            mine = prompts[start : start + self.batch_prompts * self.world_size][self.rank :: self.world_size]
            batch = EvaluationBatch(self.stream.source.name)
            groups = self.collector().sample_groups(mine, self.samples, self.sampling, rollout=-1, verifier=self.stream.verifier)
            for (prompt, _), group in zip(mine, groups, strict=True):
                batch.labels.append(prompt.label)
                batch.prompt_ids.append(prompt.id)
                batch.outcomes.append([s.outcome for s in group])
                batch.answers.append([s.extracted for s in group])
                batch.lengths.append([len(s.token_ids) for s in group])
                batch.truncated.append([s.truncated for s in group])
                batch.rows += [
                    {
                        "source": batch.source,
                        "id": prompt.id,
                        "label": prompt.label,
                        "sample": s.index,
                        "outcome": s.outcome,
                        "extracted": s.extracted,
                        "finish_reason": s.finish_reason,
                        "tokens": len(s.token_ids),
                        "prompt": prompt.text or prompt.messages,
                        "completion": s.text,
                    }
                    for s in group
                ]
            yield batch
