"""Arithmetic in four levels: a task on which a small language model learns to compute within minutes. Endless, seeded, addressable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from aer_lightning.data.prompts.base import Prompt
from aer_lightning.data.prompts.generated import CounterRandom, GeneratedPrompts, Split, split_of
from aer_lightning.errors import ConfigError

if TYPE_CHECKING:
    from aer_lightning.data.rewards.base import Grader

LEVELS = ("one-digit sums", "two-digit sums", "two-digit products", "two operations")


@dataclass(frozen=True, slots=True)
class ArithmeticProblem:
    """The operands in the order in which they are shown, the expression over them, its value and its level."""

    numbers: tuple[int, ...]
    expression: str
    value: int
    level: str

    @property
    def canonical(self) -> str:
        """The problem without the order of its operands, such as ``"3 5=8"``: ``5 + 3`` is no new problem."""
        return f"{' '.join(map(str, sorted(self.numbers)))}={self.value}"

    @property
    def split(self) -> Split:
        """The split that owns this problem."""
        return split_of(self.canonical, b"arithmetic")


def draw_problem(rng: CounterRandom, level: str) -> ArithmeticProblem | None:
    """One random problem; None if its value is negative.

    Worked example: ``two operations`` may draw 7, 12, 3 with ``*`` and ``-``: the expression is ``7 * 12 - 3``, its value 81.
    """
    if level == "two operations":
        a, b, c = numbers = tuple(2 + rng.below(18) for _ in range(3))
        first, second = ("+-*"[rng.below(3)] for _ in range(2))
        values = {"+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y}
        # multiplication binds closer, everything else goes from left to right
        right_first = second == "*" and first != "*"
        value = values[first](a, values[second](b, c)) if right_first else values[second](values[first](a, b), c)
        return ArithmeticProblem(numbers, f"{a} {first} {b} {second} {c}", value, level) if value >= 0 else None
    lowest, count = (0, 10) if level == "one-digit sums" else (10, 90)
    a, b = lowest + rng.below(count), lowest + rng.below(count)
    if level == "two-digit products":
        return ArithmeticProblem((a, b), f"{a} * {b}", a * b, level)
    return ArithmeticProblem((a, b), f"{a} + {b}", a + b, level)


class ArithmeticPrompts(GeneratedPrompts[ArithmeticProblem]):
    """Questions such as ``"What is 3 + 5?"``, judged by their value; the level is the label.

    The mix of levels is stratified: every window of ``sum(mix)`` consecutive prompts holds exactly ``mix[j]`` of ``levels[j]``. The
    splits are disjoint by a hash of the problem without the order of its operands, whatever the seeds.

    Args:
        split: ``train`` or ``validation``.
        levels: which of "one-digit sums" (0 to 9), "two-digit sums", "two-digit products" (10 to 99), "two operations" (2 to 19, of ``+``,
            ``-`` and ``*``, value not negative).
        mix: for each of ``levels``, its prompts in every block of ``sum(mix)``; equal parts by default.
        seed: another seed draws other problems of the same split.
        size: number of prompts, all of them distinct problems; None for an endless source, where a problem may come again.
        template: text of the prompt, with ``{problem}``, the bare expression, once in it.
        chat: hand the text to the tokenizer's chat template, as the user's message.
        grader: judges completions; ``MathGrader`` by default, which pays evaluated numbers only.
        name: name in metrics.

    Raises:
        ConfigError: an option is out of range, or there are fewer than ``size`` distinct problems.
    """

    widen = ", or add levels"

    def __init__(
        self,
        split: Split = "train",
        levels: Sequence[str] = LEVELS,
        mix: Sequence[int] | None = None,
        seed: int = 0,
        size: int | None = None,
        template: str = "What is {problem}?",
        chat: bool = False,
        grader: Grader | None = None,
        name: str = "arithmetic",
    ) -> None:
        mix = [1] * len(levels) if mix is None else mix
        if not levels or len(set(levels)) != len(levels) or not set(levels) <= set(LEVELS):
            raise ConfigError(f"prompts.levels: must be different ones of {', '.join(LEVELS)}, not {list(levels)}")
        if len(mix) != len(levels) or not all(isinstance(part, int) and part >= 1 for part in mix):
            raise ConfigError(f"prompts.mix: must be one integer >= 1 for each of levels {list(levels)}, not {list(mix)}")
        if template.count("{problem}") != 1:
            raise ConfigError(f"prompts.template: must hold {{problem}} exactly once, not {template!r}")
        super().__init__(split, mix, seed, size, name)
        self.labels = tuple(levels)
        self.template = template
        self.chat = chat
        self._grader = grader

    @property
    def grader(self) -> Grader:
        """The grader handed in, or a ``MathGrader``."""
        if self._grader is None:
            from aer_lightning.data.rewards.math import MathGrader

            self._grader = cast("Grader", MathGrader())
        return self._grader

    def draw(self, rng: CounterRandom, difficulty: int) -> ArithmeticProblem | None:
        """See :func:`draw_problem`."""
        return draw_problem(rng, self.labels[difficulty])

    def __getitem__(self, index: int) -> Prompt:
        """The prompt at ``index``."""
        problem = self.problem(index)
        text = self.template.replace("{problem}", problem.expression)
        return Prompt(
            id=f"{self.name}/{self.split}/{self.seed}/{index}",
            text=None if self.chat else text,
            messages=[{"role": "user", "content": text}] if self.chat else None,
            answer=str(problem.value),
            label=problem.level,
            extra={"problem": problem.expression},
        )
