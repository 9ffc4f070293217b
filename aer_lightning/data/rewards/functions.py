"""Reward functions beside correctness: what each completion of a batch is worth, as a real number."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from aer_lightning.data.rewards.base import Grade
from aer_lightning.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RewardRequest:
    """One completion to be scored.

    Attributes:
        completion: its text.
        answer: the gold answer.
        prompt: the prompt's text, "" where it is not known.
        grade: the verifier's verdict.
        tokens: length of the completion, or None where it is not known.
    """

    completion: str
    answer: Any
    prompt: str
    grade: Grade
    tokens: int | None = None


@runtime_checkable
class RewardFunction(Protocol):
    """Scores batches. It may use a GPU model, a process or the network: it runs in a thread of its own and has a deadline."""

    def score(self, requests: Sequence[RewardRequest]) -> Sequence[float]:
        """One finite number for each request, in their order."""
        ...


class Correctness:
    """The grader's score: 1 for a correct answer and 0 for any other, unless the grader gives its own (``Grade(outcome, score=0.3)``)."""

    def score(self, requests: Sequence[RewardRequest]) -> list[float]:
        """See the class."""
        return [request.grade.reward for request in requests]


class Format:
    r"""1 where a regular expression is found in the completion, else 0.

    Args:
        pattern: searched in the whole text, over line ends; an answer in a box by default.
    """

    def __init__(self, pattern: str = r"\\boxed\{.+\}") -> None:
        try:
            self.pattern = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ConfigError(f"Format.pattern: {pattern!r} is no regular expression: {error}") from error

    def score(self, requests: Sequence[RewardRequest]) -> list[float]:
        """See the class."""
        return [float(self.pattern.search(request.completion) is not None) for request in requests]


class Length:
    """1 up to ``free`` tokens, then falling in a straight line to 0 at ``limit`` tokens and beyond.

    Example: with ``free`` 100 and ``limit`` 200, completions of 50, 150 and 250 tokens score 1, 0.5 and 0.
    """

    def __init__(self, limit: int, free: int = 0) -> None:
        if not 0 <= free < limit:
            raise ConfigError(f"Length: needs 0 <= free < limit, got free {free} and limit {limit}")
        self.limit, self.free = limit, free

    def score(self, requests: Sequence[RewardRequest]) -> list[float]:
        """See the class; where tokens are not known, words are counted."""
        lengths = [len(r.completion.split()) if r.tokens is None else r.tokens for r in requests]
        return [min(1.0, max(0.0, (self.limit - n) / (self.limit - self.free))) for n in lengths]


class PythonFunction:
    """A Python function by its dotted path, ``my_module.my_reward``.

    It is called with the completion, the gold answer and the prompt, or with as many of these as it takes, and returns a number.
    """

    def __init__(self, path: str) -> None:
        module, _, name = path.rpartition(".")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"rewards: there is no function {path}: {error}") from error
        if not callable(function):
            raise ConfigError(f"rewards: {path} is no function but {type(function).__name__}")
        parameters = inspect.signature(function).parameters.values()
        many = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.path, self.function = path, function
        self.count = 3 if many else min(3, sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters))
        if not self.count:
            raise ConfigError(f"rewards: {path} takes no arguments; it is called with (completion, answer, prompt)")

    def __reduce__(self) -> tuple[Any, ...]:
        """Found anew by its path in another process."""
        return type(self), (self.path,)

    def score(self, requests: Sequence[RewardRequest]) -> list[float]:
        """See the class."""
        return [float(self.function(*(r.completion, r.answer, r.prompt)[: self.count])) for r in requests]


class HttpReward:
    """Scores from a server: one POST a batch, ``{"completions", "answers", "prompts"}`` as JSON, answered by ``{"scores": [...]}``.

    Args:
        url: of the server.
        timeout_s: seconds to wait for its answer; the deadline of the reward holds besides.
    """

    def __init__(self, url: str, timeout_s: float = 30.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"HttpReward.url: {url!r} does not start with http:// or https://")
        self.url, self.timeout_s = url, timeout_s

    def score(self, requests: Sequence[RewardRequest]) -> list[float]:
        """See the class."""
        body = {name: [getattr(r, name[:-1]) for r in requests] for name in ("completions", "answers", "prompts")}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=self.timeout_s) as reply:
            return [float(score) for score in json.load(reply)["scores"]]
