"""Countdown: combine a few numbers into a target. An endless, seeded and index-addressable source with a difficulty label."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from typing import Literal

from aer_lightning.data.prompts.base import Prompt
from aer_lightning.data.rewards.countdown import CountdownGrader
from aer_lightning.errors import ConfigError

Split = Literal["train", "validation"]

VALIDATION_PART = 8  # one canonical problem in eight belongs to the validation split
MAX_ATTEMPTS = 100_000  # draws for one problem before the options are called impossible


class CounterRandom:
    """SplitMix64 (Steele et al., OOPSLA 2014) started from a hash of its key.

    Used instead of ``random.Random`` because only ``random()`` is promised to stay the same between Python versions, and a
    prompt at an index must stay the same for ever. It touches no global state.
    """

    def __init__(self, *key: object) -> None:
        self._state = int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "big")

    def bits(self) -> int:
        """Next 64 random bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        """Uniform integer in ``[0, n)``, n well below 2**64; the bias of the multiplication is under n / 2**64."""
        return (self.bits() * n) >> 64


@dataclass(frozen=True, slots=True)
class CountdownProblem:
    """Numbers in the order in which they are shown, the target, and one expression that solves it."""

    numbers: tuple[int, ...]
    target: int
    solution: str

    @property
    def canonical(self) -> str:
        """The problem without the order of its numbers, such as ``"3 7 25=46"``."""
        return f"{' '.join(map(str, sorted(self.numbers)))}={self.target}"

    @property
    def split(self) -> Split:
        """The split that owns this problem, by a hash of its canonical form: no option and no seed moves it."""
        digest = blake2b(self.canonical.encode(), digest_size=8, person=b"countdown").digest()
        return "validation" if int.from_bytes(digest, "big") % VALIDATION_PART == 0 else "train"


@dataclass(frozen=True, slots=True)
class _Term:
    value: int
    text: str
    operator: str = ""  # operator at the top of the expression, "" for a number

    def within(self, operators: str) -> str:
        return f"({self.text})" if self.operator and self.operator in operators else self.text


def _combine(rng: CounterRandom, left: _Term, right: _Term) -> _Term:
    """Join two terms by an operator that keeps the value a positive integer, as the rules of the game ask."""
    operators = "+*"
    if left.value > right.value:
        operators += "-"
    if right.value > 1 and left.value % right.value == 0:
        operators += "/"
    match operator := operators[rng.below(len(operators))]:
        case "+":
            return _Term(left.value + right.value, f"{left.text}+{right.text}", operator)
        case "-":
            return _Term(left.value - right.value, f"{left.text}-{right.within('+-')}", operator)
        case "*":
            return _Term(left.value * right.value, f"{left.within('+-')}*{right.within('+-')}", operator)
        case _:
            return _Term(left.value // right.value, f"{left.within('+-')}/{right.within('+-*/')}", operator)


def draw_problem(rng: CounterRandom, count: int, max_number: int, max_target: int) -> CountdownProblem | None:
    """One random expression over ``count`` numbers, labelled with its own value; None if that is above ``max_target``."""
    numbers = tuple(1 + rng.below(max_number) for _ in range(count))
    terms = [_Term(number, str(number)) for number in numbers]
    while len(terms) > 1:
        left = terms.pop(rng.below(len(terms)))
        right = terms.pop(rng.below(len(terms)))
        terms.append(_combine(rng, left, right))
    if terms[0].value > max_target:
        return None
    return CountdownProblem(numbers, terms[0].value, terms[0].text)


def interleave(parts: Sequence[int]) -> list[int]:
    """Spread ``parts[j]`` copies of every j evenly over ``sum(parts)`` places.

    Repeated for ever, every window of ``sum(parts)`` consecutive places holds exactly ``parts[j]`` copies of j.
    """
    total, pattern, done = sum(parts), [], [0] * len(parts)
    for place in range(1, total + 1):
        behind = [Fraction(part * place, total) - count for part, count in zip(parts, done, strict=True)]
        chosen = behind.index(max(behind))
        done[chosen] += 1
        pattern.append(chosen)
    return pattern


class CountdownPrompts:
    """Countdown problems in the form ``"3 7 25=46:"``; the completion is an expression such as ``"3*7+25"``.

    Every problem can be solved: it is a random expression labelled with its own value, and every intermediate value is a
    positive integer. Difficulty is the number of numbers. The mix of difficulties is stratified, so that the entropy of a
    rollout does not move with the luck of its draw: every window of ``sum(mix)`` consecutive prompts holds exactly
    ``mix[j]`` prompts with ``numbers[j]`` numbers. Reading in another order than by index loses this, unless every index keeps its
    remainder by ``period``, as the shuffling of the training prompts does.

    The splits are disjoint by a hash of the problem without the order of its numbers, whatever the seeds.

    Args:
        split: ``train`` or ``validation``.
        numbers: how many numbers a problem may have; each becomes a difficulty with the label ``"N numbers"``.
        mix: for each of ``numbers``, its prompts in every block of ``sum(mix)``; equal parts by default.
        seed: another seed draws other problems of the same split.
        size: number of prompts, all of them distinct problems; None for an endless source, where a problem may come again.
        max_number: largest number in a problem.
        max_target: largest target.
        name: name in metrics.

    Raises:
        ConfigError: an option is out of range, or there are fewer than ``size`` distinct problems.
    """

    def __init__(
        self,
        split: Split = "train",
        numbers: Sequence[int] = (2, 3, 4),
        mix: Sequence[int] | None = None,
        seed: int = 0,
        size: int | None = None,
        max_number: int = 25,
        max_target: int = 99,
        name: str = "countdown",
    ) -> None:
        mix = [1] * len(numbers) if mix is None else mix
        if split not in ("train", "validation"):
            raise ConfigError(f'prompts.split: must be "train" or "validation", not {split!r}')
        if not numbers or len(set(numbers)) != len(numbers) or not all(2 <= count <= 6 for count in numbers):
            raise ConfigError(f"prompts.numbers: must be different integers from 2 to 6, not {list(numbers)}")
        if len(mix) != len(numbers) or not all(isinstance(part, int) and part >= 1 for part in mix):
            raise ConfigError(f"prompts.mix: must be one integer >= 1 for each of numbers {list(numbers)}, not {list(mix)}")
        if size is not None and size < 1:
            raise ConfigError(f"prompts.size: must be >= 1, or null for an endless source, not {size}")
        if max_number < 2 or max_target < 1:
            raise ConfigError(f"prompts.max_number must be >= 2 and max_target >= 1, not {max_number} and {max_target}")
        self.split = split
        self.numbers = tuple(numbers)
        self.mix = tuple(mix)
        self.seed = seed
        self.size = size
        self.max_number = max_number
        self.max_target = max_target
        self.name = name
        self.labels = tuple(f"{count} numbers" for count in self.numbers)
        self.grader = CountdownGrader()
        self._pattern = interleave(self.mix)
        self.period = len(self._pattern)
        self._problems: list[CountdownProblem] = []

    def load(self) -> None:
        """Draw the distinct problems of a source with a size; nothing to do for an endless one. Idempotent."""
        if self.size is None or self._problems:
            return
        problems: list[CountdownProblem] = []
        seen: set[str] = set()
        for index in range(self.size):
            for problem in self._draws(index):
                if problem.canonical not in seen:
                    break
            else:
                raise ConfigError(
                    f"prompts.size: only {index} distinct {self.split} problems found, {self.size} asked for; lower size, "
                    f"or raise max_number ({self.max_number}) or max_target ({self.max_target})"
                )
            seen.add(problem.canonical)
            problems.append(problem)
        self._problems = problems

    def __len__(self) -> int:
        """Number of prompts; ``sys.maxsize`` for an endless source."""
        return sys.maxsize if self.size is None else self.size

    def problem(self, index: int) -> CountdownProblem:
        """The problem at ``index``, with one solution.

        Raises:
            IndexError: the index is negative or not below ``len``.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not in [0, {len(self)})")
        if self.size is not None:
            self.load()
            return self._problems[index]
        for problem in self._draws(index):
            return problem
        raise ConfigError(
            f"prompts: no {self.split} problem with {self._count(index)} numbers up to {self.max_number} and a target up to "
            f"{self.max_target} was found; raise max_target"
        )

    def __getitem__(self, index: int) -> Prompt:
        """The prompt at ``index``."""
        problem = self.problem(index)
        return Prompt(
            id=f"{self.name}/{self.split}/{self.seed}/{index}",
            text=f"{' '.join(map(str, problem.numbers))}={problem.target}:",
            answer={"numbers": list(problem.numbers), "target": problem.target},
            label=f"{len(problem.numbers)} numbers",
            extra={"solution": problem.solution},
        )

    def _count(self, index: int) -> int:
        return self.numbers[self._pattern[index % len(self._pattern)]]

    def _draws(self, index: int) -> Iterator[CountdownProblem]:
        """Problems of this split that may stand at ``index``, in a fixed order."""
        rng = CounterRandom("countdown", self.split, self.seed, index)
        count = self._count(index)
        for _ in range(MAX_ATTEMPTS):
            problem = draw_problem(rng, count, self.max_number, self.max_target)
            if problem is not None and problem.split == self.split:
                yield problem
