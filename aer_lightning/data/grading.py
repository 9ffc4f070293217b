"""Completions and their verdicts side by side: workers grade what has ended while the engine still decodes the rest."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aer_lightning.data.engines.base import Completion, Engine, GenerationRequest, SamplingParams
from aer_lightning.data.rewards import Grade, Verifier
from aer_lightning.data.rewards.echo import watch

CHUNK = 16  # completions handed to the verifier at once, at least, while more are to come


def completions_as_they_end(
    engine: Engine, requests: Sequence[GenerationRequest], sampling: SamplingParams
) -> Iterable[tuple[int, Completion]]:
    """(place of its request, completion) in the order of their ends; an engine without ``stream`` gives them all at its end."""
    if not requests:
        return ()
    stream = getattr(engine, "stream", None)
    return stream(requests, sampling) if stream is not None else enumerate(engine.generate(requests, sampling))


def generate_and_grade(
    arriving: Iterable[tuple[int, Completion]],
    decode: Callable[[Completion], str],
    asked: Sequence[tuple[Any, ...]],
    verifier: Verifier,
) -> tuple[list[Completion], list[str], list[Grade]]:
    """Take completions as they end and grade them meanwhile; what comes back is in the order of the requests, whatever ended first.

    Only a grader in worker processes works meanwhile: one in this process would take the engine's time, so it follows.

    Args:
        arriving: (place, completion) pairs, each place once.
        decode: a completion's text.
        asked: for each place the gold answer and the prompt's text.
        verifier: grades.

    Returns:
        Completions, texts and verdicts.

    Example (two completions of which the second ends first):
        completions, texts, grades = generate_and_grade(engine.stream(requests, sampling), decode, [("5", "2+3"), ("7", "3+4")], verifier)
    """
    completions: dict[int, Completion] = {}
    texts: dict[int, str] = {}
    grades: dict[int, Grade] = {}

    rewards = getattr(verifier, "reward_names", ())

    def item(place: int) -> tuple[Any, ...]:
        return texts[place], *asked[place], *((len(completions[place].token_ids),) if rewards else ())

    def grade(places: Sequence[int]) -> None:
        verdicts = verifier.grade([item(i) for i in places])
        grades.update(zip(places, verdicts, strict=True))

    def drain() -> None:
        waiting: list[int] = []
        while True:
            place = ended.get()
            if place is not None:
                waiting.append(place)
            if waiting and (place is None or (len(waiting) >= CHUNK and ended.empty())):
                grade(waiting)
                waiting = []
            if place is None:
                return

    ended: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    with ThreadPoolExecutor(1, thread_name_prefix="grading") as pool:
        meanwhile = pool.submit(drain) if verifier.grader.isolated else None
        try:
            for place, completion in arriving:
                completions[place], texts[place] = completion, decode(completion)
                ended.put(place)
        finally:
            ended.put(None)
        if meanwhile is not None:
            meanwhile.result()
    order = range(len(asked))
    if meanwhile is None and asked:
        grade(list(order))
    watch(verifier.grader, [item(i) for i in order], [grades[i] for i in order])
    return [completions[i] for i in order], [texts[i] for i in order], [grades[i] for i in order]
