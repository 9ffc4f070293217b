"""Completions that repeat their prompt: what is repeated is no answer, and a run that pays mostly for repeating has a fault."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from aer_lightning.data.rewards.base import Grade, Outcome

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[^\w\s]|_")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_LONGEST_PROMPT = 20_000  # characters, from the end: the question is there
_FEWEST = 4  # rewarded completions of which most being echoes means something


def without_echo(text: str, prompt: str, least: int) -> str:
    r"""``text`` with every passage of at least ``least`` words, numbers or signs that ``prompt`` has as well replaced by a line break.

    >>> without_echo("To solve 10 minus 5 you need 5", "What is 10 minus 5?", least=3)
    'To solve \n you need 5'
    """
    asked = [m.group().casefold() for m in _TOKEN.finditer(prompt[-_LONGEST_PROMPT:])]
    said = [(m.group().casefold(), m.start(), m.end()) for m in _TOKEN.finditer(text)]
    words = [word for word, _, _ in said]
    known = {tuple(asked[i : i + least]) for i in range(len(asked) - least + 1)}
    repeated = [False] * len(words)
    for i in range(len(words) - least + 1):
        if tuple(words[i : i + least]) in known:
            repeated[i : i + least] = [True] * least
    kept, at = [], 0
    for (_, start, end), echo, before in zip(said, repeated, [False, *repeated], strict=False):
        if echo:
            kept.append("" if before else text[at:start] + "\n")
            at = end
    return "".join(kept) + text[at:]


def repeats_only(prompt: str, completion: str) -> bool | None:
    """Whether ``completion`` has no number that ``prompt`` lacks; None if it has no number at all."""
    said = set(_NUMBER.findall(completion))
    return said <= set(_NUMBER.findall(prompt)) if said else None


def watch(grader: Any, items: Sequence[tuple[Any, ...]], grades: Sequence[Grade]) -> str | None:
    """``warn_of_echoes`` of the ``(completion, gold answer, prompt, ...)`` items that were found correct.

    Not for a grader whose answers are made of the prompt's numbers, which it says by a true attribute ``answers_from_prompt``.
    """
    if getattr(grader, "answers_from_prompt", False):
        return None
    correct = (item for item, grade in zip(items, grades, strict=True) if grade.outcome is Outcome.CORRECT)
    return warn_of_echoes((item[2], item[0]) for item in correct)


def warn_of_echoes(rewarded: Iterable[tuple[str, str]]) -> str | None:
    """Warn if most rewarded ``(prompt, completion)`` pairs have no number beyond the prompt's; returns the warning's text.

    Completions without any number (a word, the letter of an option) do not count, and fewer than four pairs say nothing.
    """
    verdicts = [(echo, completion) for prompt, completion in rewarded if (echo := repeats_only(prompt, completion)) is not None]
    echoes = [completion for echo, completion in verdicts if echo]
    if len(verdicts) < _FEWEST or 2 * len(echoes) <= len(verdicts):
        return None
    message = (
        f"{len(echoes)} of {len(verdicts)} rewarded completions contain no number beyond the prompt's: the policy may be paid for "
        f"repeating the question instead of answering it; read samples.jsonl. For example: {echoes[0][-120:]!r}"
    )
    warnings.warn(f"verifier: {message}", stacklevel=3)
    return message
