"""Finds problems that occur twice: within the training data, and in both the training data and a benchmark."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

_TYPOGRAPHY = re.compile(r"\\(?:left|right|displaystyle|limits|quad|qquad|big|bigg|Big|Bigg)(?![a-zA-Z])|\\[,;:!() \[\]]|\$|~")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|operatorname|mbox|emph)\s*\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PAIR = re.compile(r"(?<=\d)\s*[,;]\s*(?=\d)")
# A point or semicolon between digits is part of a number or a pair of coordinates and stays.
_PUNCTUATION = re.compile(r"[,:!?'\"`\u2018\u2019\u201c\u201d]|(?<!\d)[.;]|[.;](?!\d)")
_SPACE = re.compile(r"\s+")


@lru_cache(maxsize=50_000)  # sources and reports normalise the same texts again
def normalise_problem(text: str) -> str:
    r"""Reduce a problem to what two copies of it share.

    Dropped: Unicode compatibility forms, letter case, white space, LaTeX spacing and dollar signs, the font of words,
    ``\dfrac`` for ``\frac``, thousands separators and sentence punctuation. Digits, letters, operators, and points and commas
    inside numbers stay: problems with other numbers are other problems.
    """
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", text)
    text = _TEXT.sub(r"\1", text)
    text = _TYPOGRAPHY.sub(" ", text).casefold()
    text = _PAIR.sub(";", _THOUSANDS.sub("", text))
    return _SPACE.sub("", _PUNCTUATION.sub("", text))


def find_duplicates(problems: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Groups of ids whose texts are equal after :func:`normalise_problem`.

    Args:
        problems: (id, text) of each problem.

    Returns:
        Each group of two or more ids, both groups and ids in the order in which they came.
    """
    groups: dict[str, list[str]] = {}
    for name, text in problems:
        groups.setdefault(normalise_problem(text), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def find_overlap(train: Iterable[tuple[str, str]], evaluation: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs (training id, evaluation id) of problems with equal texts after :func:`normalise_problem`.

    Args:
        train: (id, text) of each training problem.
        evaluation: (id, text) of each evaluation problem.

    Returns:
        The pairs in the order of the training problems.
    """
    held_out: dict[str, list[str]] = {}
    for name, text in evaluation:
        held_out.setdefault(normalise_problem(text), []).append(name)
    return [(name, other) for name, text in train for other in held_out.get(normalise_problem(text), ())]


@dataclass(frozen=True)
class OverlapReport:
    """What :func:`find_duplicates` and :func:`find_overlap` found.

    Attributes:
        problems: number of training problems looked at.
        duplicates: groups of training ids with equal texts.
        conflicts: those of the groups whose gold answers are not all the same string.
        overlaps: for each evaluation set, pairs (training id, evaluation id) with equal texts.
    """

    problems: int
    duplicates: list[tuple[str, ...]] = field(default_factory=list)
    conflicts: list[tuple[str, ...]] = field(default_factory=list)
    overlaps: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """True if nothing was found."""
        return not self.duplicates and not any(self.overlaps.values())

    def lines(self, examples: int = 3) -> list[str]:
        """One line a finding, each with up to ``examples`` ids; no line where nothing was found."""
        lines = []
        if self.duplicates:
            extra = sum(len(group) - 1 for group in self.duplicates)
            lines.append(f"{extra} of {self.problems} training problems repeat another one: {_some(self.duplicates, examples)}")
        if self.conflicts:
            lines.append(f"{len(self.conflicts)} repeated problems have different answers: {_some(self.conflicts, examples)}")
        for name, pairs in self.overlaps.items():
            if pairs:
                held_out = len({other for _, other in pairs})
                lines.append(f"{held_out} problems of {name} are in the training data: {_some(pairs, examples)}")
        return lines


def _some(groups: Sequence[tuple[str, ...]], examples: int) -> str:
    text = "; ".join(" = ".join(group) for group in groups[:examples])
    return text + (f"; and {len(groups) - examples} more" if len(groups) > examples else "")


def check_overlap(train: Sequence[tuple[str, str, str]], evaluations: dict[str, Sequence[tuple[str, str]]] | None = None) -> OverlapReport:
    """Look for duplicates in the training data and for overlap with each evaluation set.

    Args:
        train: (id, text, answer) of each training problem.
        evaluations: for each evaluation set's name, (id, text) of each problem.
    """
    answers = {name: answer for name, _, answer in train}
    texts = [(name, text) for name, text, _ in train]
    duplicates = find_duplicates(texts)
    return OverlapReport(
        problems=len(train),
        duplicates=duplicates,
        conflicts=[group for group in duplicates if len({answers[name] for name in group}) > 1],
        overlaps={name: find_overlap(texts, problems) for name, problems in (evaluations or {}).items()},
    )
