"""Countdown: combine a few numbers into a target. An endless, seeded and index-addressable source with a difficulty label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aer_lightning.data.prompts.base import Prompt
from aer_lightning.data.prompts.generated import CounterRandom, GeneratedPrompts, Split, split_of
from aer_lightning.data.rewards.countdown import CountdownGrader
from aer_lightning.errors import ConfigError


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
        """The split that owns this problem."""
        return split_of(self.canonical, b"countdown")


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


class CountdownPrompts(GeneratedPrompts[CountdownProblem]):
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
        if not numbers or len(set(numbers)) != len(numbers) or not all(2 <= count <= 6 for count in numbers):
            raise ConfigError(f"prompts.numbers: must be different integers from 2 to 6, not {list(numbers)}")
        if len(mix) != len(numbers) or not all(isinstance(part, int) and part >= 1 for part in mix):
            raise ConfigError(f"prompts.mix: must be one integer >= 1 for each of numbers {list(numbers)}, not {list(mix)}")
        if max_number < 2 or max_target < 1:
            raise ConfigError(f"prompts.max_number must be >= 2 and max_target >= 1, not {max_number} and {max_target}")
        super().__init__(split, mix, seed, size, name)
        self.numbers = tuple(numbers)
        self.max_number = max_number
        self.max_target = max_target
        self.labels = tuple(f"{count} numbers" for count in self.numbers)
        self.grader = CountdownGrader()
        self.widen = f", or raise max_number ({max_number}) or max_target ({max_target})"

    def draw(self, rng: CounterRandom, difficulty: int) -> CountdownProblem | None:
        """See :func:`draw_problem`."""
        return draw_problem(rng, self.numbers[difficulty], self.max_number, self.max_target)

    def impossible(self, index: int) -> str:
        """Why no problem was found for ``index``."""
        return (
            f"prompts: no {self.split} problem with {self.numbers[self.level(index)]} numbers up to {self.max_number} and a target up to "
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
