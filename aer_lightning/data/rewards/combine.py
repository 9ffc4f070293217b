"""Several reward functions with weights: each batch is scored by all of them at once, each within its deadline."""

from __future__ import annotations

import importlib
import math
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from aer_lightning.data.rewards import functions
from aer_lightning.data.rewards.base import Grade, Outcome
from aer_lightning.data.rewards.functions import PythonFunction, RewardFunction, RewardRequest
from aer_lightning.data.rewards.pool import VerifierPool
from aer_lightning.errors import ConfigError

_KEYS = ("class_path", "init_args", "weight", "name", "timeout_s", "process")


class _OneByOne:
    """A reward function as a grader, so that a pool of killable workers can run it."""

    isolated = True

    def __init__(self, function: RewardFunction) -> None:
        self.function = function

    def check_gold(self, answer: Any) -> str | None:
        return None

    def grade(self, completion: str, answer: Any, *context: Any) -> Grade:
        (score,) = self.function.score([RewardRequest(completion, answer, *context)])
        return Grade(Outcome.CORRECT, score=float(score))


@dataclass
class Reward:
    """A reward function with its place in the sum.

    Attributes:
        name: in the logs, ``rollout/reward/<name>``.
        function: scores batches.
        weight: what its scores are multiplied by.
        timeout_s: wall-clock seconds for a batch, or for one completion in a worker process.
        process: run in worker processes, one completion at a time; a worker that is late or crashes is killed and replaced.
    """

    name: str
    function: RewardFunction
    weight: float = 1.0
    timeout_s: float = 30.0
    process: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ConfigError(f"rewards: the weight {self.weight} of {self.name} is no finite number")
        if not self.timeout_s > 0:
            raise ConfigError(f"rewards: timeout_s {self.timeout_s} of {self.name} is not positive")
        self.pool = VerifierPool(_OneByOne(self.function), timeout_s=self.timeout_s) if self.process else None
        self._busy: threading.Thread | None = None

    def scores(self, requests: Sequence[RewardRequest]) -> tuple[list[float | None], str]:
        """A score for each request, None where there is none in time, and the first reason for that."""
        if self.pool is not None:
            grades = self.pool.grade([(r.completion, r.answer, r.prompt, r.grade, r.tokens) for r in requests])
            return [g.score for g in grades], next((g.reason for g in grades if g.score is None), "")
        result: list[Any] = []

        def work() -> None:
            try:
                result.append(list(self.function.score(requests)))
            except Exception as error:  # a fault of one reward must not end a run
                result.append(f"{type(error).__name__}: {str(error)[:200]}")

        if self._busy is not None and self._busy.is_alive():
            return [None] * len(requests), "still busy with an earlier batch"
        self._busy = threading.Thread(target=work, name=f"reward {self.name}", daemon=True)
        self._busy.start()
        self._busy.join(self.timeout_s)
        scores = result[0] if result else f"no scores within {self.timeout_s:g} s"
        if isinstance(scores, str):
            return [None] * len(requests), scores
        if len(scores) != len(requests):
            return [None] * len(requests), f"{len(scores)} scores for {len(requests)} completions"
        numbers = [float(s) if isinstance(s, int | float) and math.isfinite(s) else None for s in scores]
        return numbers, "" if None not in numbers else f"a score is no finite number: {scores[numbers.index(None)]!r:.80}"


class Rewards:
    """The weighted sum of several rewards.

    A completion's outcome stays the grader's, so that accuracy, pass@k, g(q) and difficulty count correct answers whatever is summed.
    A score that fails or is late counts as 0, with a warning.

    Example: correctness 1 and 0 with weight 1, format 1 and 1 with weight 0.2 make 1.2 and 0.2.
    """

    def __init__(self, rewards: Sequence[Reward]) -> None:
        names = [reward.name for reward in rewards]
        if not rewards:
            raise ConfigError("rewards: the list is empty; leave it out for correctness alone")
        if len(set(names)) < len(names):
            raise ConfigError(f"rewards: two are named the same ({', '.join(names)}); give each its own name")
        self.rewards = list(rewards)

    @property
    def names(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(reward.name for reward in self.rewards)

    @classmethod
    def from_config(cls, entries: Sequence[dict[str, Any]]) -> Rewards:
        """Rewards from ``[{class_path, init_args, weight, name, timeout_s, process}, ...]``; all but the first key may be left out.

        ``class_path`` names a class of this package (``Format``), any class with ``score`` by its dotted path, or a Python function.
        """
        return cls([_reward(dict(entry), place) for place, entry in enumerate(entries)])

    def apply(self, requests: Sequence[RewardRequest]) -> list[Grade]:
        """The verdicts of the requests, each with the weighted sum as its score and the single scores by name as its ``parts``."""
        results: list[Any] = [None] * len(self.rewards)

        def run(place: int) -> None:
            results[place] = self.rewards[place].scores(requests)

        threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(self.rewards))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        grades = []
        for reward, (scores, reason) in zip(self.rewards, results, strict=True):
            if failed := sum(score is None for score in scores):
                warnings.warn(f"reward {reward.name}: {failed} of {len(scores)} completions have no score ({reason})", stacklevel=2)
        for i, request in enumerate(requests):
            parts = {r.name: scores[i] or 0.0 for r, (scores, _) in zip(self.rewards, results, strict=True)}
            total = sum(r.weight * parts[r.name] for r in self.rewards)
            grades.append(replace(request.grade, score=total, parts=parts))
        return grades

    def close(self) -> None:
        """End the worker processes. Idempotent."""
        for reward in self.rewards:
            if reward.pool is not None:
                reward.pool.close()


def _reward(entry: dict[str, Any], place: int) -> Reward:
    where = f"rewards[{place}]"
    if unknown := [key for key in entry if key not in _KEYS]:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; there are {', '.join(_KEYS)}")
    path = entry.get("class_path")
    if not isinstance(path, str) or not path:
        raise ConfigError(f"{where}.class_path: name a reward class or a Python function")
    arguments = dict(entry.get("init_args") or {})
    target: Any = getattr(functions, path, None)
    if target is None and "." in path:
        module, _, name = path.rpartition(".")
        try:
            target = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{where}.class_path: there is no {path}: {error}") from error
    if target is None:
        raise ConfigError(
            f"{where}.class_path: there is no reward {path}; give a dotted path, or one of Correctness, Format, Length, HttpReward"
        )
    if isinstance(target, type):
        try:
            function = target(**arguments)
        except TypeError as error:
            raise ConfigError(f"{where}.init_args: {error}") from error
        if not callable(getattr(function, "score", None)):
            raise ConfigError(f"{where}.class_path: {path} has no method score(requests) that returns one number for each")
    elif arguments:
        raise ConfigError(f"{where}.init_args: {path} is a function and takes none")
    else:
        function = PythonFunction(path)
    try:
        weight, timeout = float(entry.get("weight", 1.0)), float(entry.get("timeout_s", 30.0))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: weight and timeout_s must be numbers: {error}") from error
    name = str(entry.get("name") or path.rpartition(".")[2].lower())
    return Reward(name, function, weight, timeout, bool(entry.get("process", False)))
