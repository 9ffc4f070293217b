"""Evaluation as data: n graded samples for each held-out prompt, the same at every evaluation of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

from aer_lightning.data.evaluation_cache import EvaluationCache, KeptCompletion, SourceCache
from aer_lightning.distributed import gather_objects
from aer_lightning.rollout import EvaluationBatch

if TYPE_CHECKING:
    from aer_lightning.data.collector import Collector
    from aer_lightning.data.engines.base import SamplingParams
    from aer_lightning.data.stream import Encoded, PromptStream


class EvaluationLoader:
    """A loader over one source: generates when asked for the next batch. Sized, so that Lightning does not prefetch.

    Args:
        collector: returns what generates, starting the engine if it has to; not called where every completion is in the cache.
        stream: the source's usable prompts.
        samples: n, completions per prompt.
        sampling: how to sample.
        batch_prompts: prompts per batch and rank.
        rank, world_size: this rank's share is every ``world_size``-th prompt.
        cache: keeps completions on disk; None keeps none.
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
        cache: EvaluationCache | None = None,
    ) -> None:
        self.collector, self.stream, self.samples, self.sampling = collector, stream, samples, sampling
        self.batch_prompts, self.rank, self.world_size, self.cache = batch_prompts, rank, world_size, cache

    def __len__(self) -> int:
        # The same on every rank, because a batch may involve a collective weight sync.
        return -(-self.stream.usable // (self.batch_prompts * self.world_size))

    def __iter__(self) -> Iterator[EvaluationBatch]:
        prompts = self.stream.all()
        cache = self.cache.open(self.stream.source.name) if self.cache is not None else None
        if cache is not None and len(cache):
            found = sum(cache.get(prompt) is not None for prompt in prompts)
            rank_zero_info(f"{self.stream.source.name}: completions of {found} of {len(prompts)} problems are in {cache.path.parent}")
        span = self.batch_prompts * self.world_size
        for start in range(0, len(self) * span, span):
            mine = prompts[start : start + span][self.rank :: self.world_size]
            yield self._grade(mine, self._completions(mine, cache))

    def _completions(self, prompts: Sequence[Encoded], cache: SourceCache | None) -> list[list[KeptCompletion]]:
        """The completions of each prompt, from the cache as far as they are there."""
        missing = [prompt for prompt in prompts if cache is None or cache.get(prompt) is None]
        drawn: list[list[KeptCompletion]] = []
        # A weight sync may be collective: all ranks generate, or none.
        if cache is None or any(gather_objects(bool(missing))):
            completions, texts = self.collector().complete(missing, self.samples, self.sampling, rollout=-1)
            flat = [KeptCompletion(text, len(c.token_ids), c.finish_reason) for c, text in zip(completions, texts, strict=True)]
            drawn = [flat[i : i + self.samples] for i in range(0, len(flat), self.samples)]
            if cache is not None and missing:
                cache.add(missing, drawn)
        new = iter(drawn)
        return [(cache.get(prompt) if cache is not None else None) or next(new) for prompt in prompts]

    def _grade(self, prompts: Sequence[Encoded], groups: Sequence[Sequence[KeptCompletion]]) -> EvaluationBatch:
        batch = EvaluationBatch(self.stream.source.name)
        items = [(c.text, prompt.answer, prompt.content) for (prompt, _), group in zip(prompts, groups, strict=True) for c in group]
        grades = iter(self.stream.verifier.grade(items))
        form = getattr(self.stream.source.grader, "answer_form", None) or str
        for (prompt, _), group in zip(prompts, groups, strict=True):
            verdicts = [next(grades) for _ in group]
            batch.labels.append(prompt.label)
            batch.prompt_ids.append(prompt.id)
            batch.outcomes.append([g.outcome.value for g in verdicts])
            batch.answers.append([None if g.extracted is None else form(g.extracted) for g in verdicts])
            batch.scores.append([g.reward for g in verdicts])
            batch.lengths.append([c.tokens for c in group])
            batch.truncated.append([c.finish_reason == "length" for c in group])
            batch.rows += [
                {
                    "source": batch.source,
                    "id": prompt.id,
                    "label": prompt.label,
                    "sample": i,
                    "outcome": grade.outcome.value,
                    "score": grade.reward,
                    "extracted": grade.extracted,
                    "reason": grade.reason,
                    "answer": prompt.answer,
                    "finish_reason": completion.finish_reason,
                    "tokens": completion.tokens,
                    "prompt": prompt.text or prompt.messages,
                    "completion": completion.text,
                }
                for i, (completion, grade) in enumerate(zip(group, verdicts, strict=True))
            ]
        return batch
