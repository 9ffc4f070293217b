"""What drawn problems share: counter-based random numbers, a stratified mix, disjoint splits, endless or of a fixed size."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from hashlib import blake2b
from typing import Generic, Literal, Protocol, TypeVar

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


def split_of(canonical: str, person: bytes) -> Split:
    """The split that owns a problem, by a hash of its canonical form: no option and no seed moves it."""
    digest = blake2b(canonical.encode(), digest_size=8, person=person).digest()
    return "validation" if int.from_bytes(digest, "big") % VALIDATION_PART == 0 else "train"


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


class Problem(Protocol):
    """A drawn problem."""

    @property
    def canonical(self) -> str:
        """One text for all problems that are the same but for their order."""
        ...

    @property
    def split(self) -> Split:
        """The split that owns it."""
        ...


P = TypeVar("P", bound=Problem)


class GeneratedPrompts(Generic[P]):
    """An index-addressable source of drawn problems with a stratified mix; subclasses draw, and put into words.

    Args:
        split: ``train`` or ``validation``.
        mix: for each difficulty, its prompts in every block of ``sum(mix)``.
        seed: another seed draws other problems of the same split.
        size: number of prompts, all of them distinct problems; None for an endless source, where a problem may come again.
        name: name in metrics.

    Raises:
        ConfigError: an option is out of range.
    """

    widen = ""  # what an error message says to raise where there are too few problems

    def __init__(self, split: Split, mix: Sequence[int], seed: int, size: int | None, name: str) -> None:
        if split not in ("train", "validation"):
            raise ConfigError(f'prompts.split: must be "train" or "validation", not {split!r}')
        if size is not None and size < 1:
            raise ConfigError(f"prompts.size: must be >= 1, or null for an endless source, not {size}")
        self.split = split
        self.mix = tuple(mix)
        self.seed = seed
        self.size = size
        self.name = name
        self._pattern = interleave(self.mix)
        self.period = len(self._pattern)
        self._problems: list[P] = []

    def draw(self, rng: CounterRandom, difficulty: int) -> P | None:
        """One random problem of the difficulty with this index; None where the draw broke a rule."""
        raise NotImplementedError

    def level(self, index: int) -> int:
        """Index of the difficulty at ``index``."""
        return self._pattern[index % self.period]

    def load(self) -> None:
        """Draw the distinct problems of a source with a size; nothing to do for an endless one. Idempotent."""
        if self.size is None or self._problems:
            return
        problems: list[P] = []
        seen: set[str] = set()
        for index in range(self.size):
            for problem in self._draws(index):
                if problem.canonical not in seen:
                    break
            else:
                raise ConfigError(
                    f"prompts.size: only {index} distinct {self.split} problems found, {self.size} asked for; lower size{self.widen}"
                )
            seen.add(problem.canonical)
            problems.append(problem)
        self._problems = problems

    def __len__(self) -> int:
        """Number of prompts; ``sys.maxsize`` for an endless source."""
        return sys.maxsize if self.size is None else self.size

    def problem(self, index: int) -> P:
        """The problem at ``index``.

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
        raise ConfigError(self.impossible(index))

    def impossible(self, index: int) -> str:
        """Why no problem was found for ``index``."""
        return f"prompts: no {self.split} problem was found for index {index}"

    def _draws(self, index: int) -> Iterator[P]:
        """Problems of this split that may stand at ``index``, in a fixed order."""
        rng = CounterRandom(type(self).__name__.removesuffix("Prompts").lower(), self.split, self.seed, index)
        for _ in range(MAX_ATTEMPTS):
            problem = self.draw(rng, self.level(index))
            if problem is not None and problem.split == self.split:
                yield problem
