r"""The grader of mathematical answers: extraction, exact comparison, and math-verify for what is left.

Order: the answer is extracted from the completion; equal characters after normalisation are right; two exact numbers are compared
exactly, and that is final; the shape (lists, tuples, chains, words) is compared; only then does math-verify parse the two answers.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf
from typing import Any

from aer_lightning.data.rewards.base import Grade, Outcome
from aer_lightning.data.rewards.compare import Comparer, Refused, _has_words
from aer_lightning.data.rewards.extract import EXTRACT_MODES, extract, last_boxes
from aer_lightning.data.rewards.grammar import why_not
from aer_lightning.data.rewards.limits import Caps, collapse_braces
from aer_lightning.data.rewards.normalize import normalize, squash, strip_group
from aer_lightning.data.rewards.numbers import parse_based, parse_number
from aer_lightning.data.rewards.structure import apart
from aer_lightning.data.rewards.text import MAX_COMPLETION_CHARS, answer_region, clean
from aer_lightning.errors import ConfigError

_THOUSANDS = re.compile(r"\d,\d{3}(?!\d)")
_GOLD_CHARS = 20_000
_NO_ANSWER = frozenset({"none", "null", "nan", "n/a", "na", "unknown", "tbd", "?", "-", "inf"})


@dataclass
class MathGrader:
    r"""Grades mathematics in text or LaTeX against a gold answer.

    Picklable; its work belongs into a worker process (``isolated``), where :class:`~aer_lightning.data.rewards.Verifier` puts it.

    Attributes:
        extract: where the answer is: ``boxed`` (the last box), ``final_answer`` ("the answer is", "####", ...), ``last_number``, or
            ``auto``: the box, else the stated answer, else the last formula or number.
        evaluated: where the gold answer is a number, only an evaluated number is an answer: ``14``, not ``8 + 6``, ``28/2`` or ``2^4 - 2``,
            with which a policy that repeats the question would be paid; ``\sqrt{4}`` is 2 where the prompt does not name 4. False pays
            for every form of the value, as benchmarks do.
        tolerance: relative error that a number may have, for problems whose answers are measured; 0 wants exact values, and then a rounded
            decimal does not state a fraction or a root.
        max_chars: only this many characters at the end of a completion are read.
        caps: limits on the extracted answer, applied before any parser.
    """

    extract: str = "auto"
    evaluated: bool = True
    tolerance: float = 0.0
    max_chars: int = MAX_COMPLETION_CHARS
    caps: Caps = field(default_factory=Caps)
    isolated: bool = field(default=True, init=False)
    reads_prompt: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if self.extract not in EXTRACT_MODES:
            raise ConfigError(f"extract: {self.extract!r} is not one of {', '.join(EXTRACT_MODES)}")
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"tolerance: {self.tolerance} is not a relative error in [0, 1)")
        if self.max_chars < 1:
            raise ConfigError(f"max_chars: {self.max_chars} is not positive")

    def warm_up(self) -> None:
        """Load and exercise what grading needs (about 1 s), so that workers forked afterwards start at once."""
        for gold, pred in ((r"\frac{x+1}{2}", r"\boxed{\frac{1}{2}+\frac{x}{2}}"), ("x=1", r"\boxed{1-x=0}"), ("(1,2)", r"\boxed{1<x<2}")):
            self.grade(pred, gold)

    def check_gold(self, answer: Any) -> str | None:
        """Why ``answer`` cannot be graded against, or None: it is empty, not a text or number, too large, or cannot be read.

        A list is one of accepted answers, each of which has to be good.
        """
        return _read_golds(answer, self.caps)[1]

    def grade(self, completion: str, answer: Any, prompt: str | None = None) -> Grade:
        """Grade ``completion`` against the gold ``answer``; what it repeats of ``prompt`` is no answer. The caller fills in the time."""
        golds, bad = _read_golds(answer, self.caps)
        if bad is not None:
            return Grade(Outcome.BAD_GOLD, None, bad)
        asked = clean(prompt or "")
        found = extract(answer_region(completion, self.max_chars), self.extract, asked)
        if found is None:
            return Grade(Outcome.UNPARSED, None, "no answer found")
        shown = found.text[:500]
        parts = tuple(collapse_braces(strip_group(part)) for part in found.parts)
        if sum(map(len, parts)) > self.caps.chars:
            return Grade(Outcome.UNPARSED, shown, f"answer longer than {self.caps.chars} characters")
        pred = _join([normalize(apart(part)) for part in parts])
        if not pred:
            return Grade(Outcome.UNPARSED, shown, "empty answer")
        try:
            right = self._right(golds, pred, found.boxed, frozenset(re.findall(r"\d+", asked)))
        except Refused as refused:
            return Grade(Outcome.UNPARSED, shown, str(refused))
        return Grade(Outcome.CORRECT if right else Outcome.WRONG, shown)

    def _right(self, golds: Sequence[str], pred: str, boxed: bool, asked: frozenset[str]) -> bool:
        """Whether ``pred`` states one of the accepted answers. Raises Refused if it states none and could not be read for one."""
        comparer = Comparer(self.caps, boxed, self.evaluated, self.tolerance, asked)
        refused: Refused | None = None
        for gold in golds:
            try:
                if comparer.equal(gold, pred):
                    return True
            except Refused as reason:
                refused = reason
        if refused:
            raise refused
        return False

    def answer_form(self, extracted: str) -> str:
        r"""A normal form of an extracted answer for votes and counts of different answers: ``0.5``, ``\frac12`` and ``1/2`` are one string.

        Weaker than ``grade`` and, unlike it, bounded: answers that only algebra can show to be equal keep different forms. A unit is
        dropped, as one that was left out is not held against an answer, and of ``x = 3 + 4 = 7`` the last member counts.
        """
        from aer_lightning.data.rewards.structure import chain

        text = chain(normalize(collapse_braces(extracted))).members[-1]
        number = parse_number(text)
        if number is None:
            return squash(text)
        sign = "%" if number.percent else ""
        # Hexadecimal, because Python refuses to write out integers of more than 4,300 decimal digits.
        return f"{number.value.numerator:#x}/{number.value.denominator:#x}{sign}"


def _as_text(answer: Any) -> str | None:
    """The gold answer as text; None if it is not a text or a finite number."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return None
    return repr(answer)


def _read_golds(answer: Any, caps: Caps) -> tuple[list[str], str | None]:
    """The accepted answers, normalised, and the reason why one of them is bad. A list, or a JSON list of texts, has several."""
    if isinstance(answer, str) and re.match(r'\s*\[\s*"', answer):
        with contextlib.suppress(ValueError):  # not JSON: an interval, or a list of quoted words
            answer = json.loads(answer)
    if not isinstance(answer, list | tuple):
        gold, bad = _read_gold(_as_text(answer), caps)
        return [gold], bad
    if not 0 < len(answer) <= caps.parts:
        return [], f"a list of {len(answer)} accepted answers"
    golds, reasons = zip(*(_read_gold(_as_text(one), caps) for one in answer), strict=True)
    return list(golds), next((f"accepted answer {n}: {reason}" for n, reason in enumerate(reasons, 1) if reason), None)


def _join(parts: Sequence[str]) -> str:
    """Several answers as one list; at semicolons where a comma may separate thousands."""
    return ("; " if any(_THOUSANDS.search(part) for part in parts) else ", ").join(part for part in parts if part)


@lru_cache(maxsize=4096)
def _read_gold(answer: str | None, caps: Caps) -> tuple[str, str | None]:
    r"""The normalised gold answer and the reason why it is bad.

    A gold answer may be bare, between dollar signs, in a box, or a whole solution that ends in boxes or, as in GSM8K, in ``#### 42``.
    """
    if answer is None:
        return "", "not a text or a number"
    if len(answer) > _GOLD_CHARS:
        return "", f"longer than {_GOLD_CHARS} characters"
    text = clean(answer)
    boxes = last_boxes(text)
    if boxes is not None:
        text = _join([apart(part) for part in boxes.parts])
    elif "####" in text:
        text = text.rsplit("####", 1)[1]
    gold = re.sub(r"^\\approx(?![a-zA-Z])\s*", "", normalize(collapse_braces(apart(text))))
    if not re.search(r"[^\W_]", gold):
        return gold, "empty"
    if gold.casefold() in _NO_ANSWER:
        return gold, f"{gold!r} is no answer"
    if len(gold) > caps.chars:
        return gold, f"answer longer than {caps.chars} characters"
    if parse_number(gold) is not None or _has_words(gold):
        return gold, None
    return gold, _unreadable(gold, caps)


def _unreadable(gold: str, caps: Caps) -> str | None:
    """Why the gold answer cannot be parsed, or None."""
    from aer_lightning.data.rewards import structure as shape
    from aer_lightning.data.rewards import symbolic

    depth = 0
    for char in re.sub(r"\\[{}]", "", gold):
        depth += (char == "{") - (char == "}")
        if depth < 0:
            break
    if depth:
        return "braces do not match"
    if re.search(r",\s*,|^\s*,|,\s*$", gold):
        return "an element is empty"
    if refused := replace(caps, value_digits=inf).refuse(gold):
        return refused
    if caps.refuse(gold) or parse_based(gold):
        return None  # a number beyond the parser's cap is matched by its spelling
    if "division by zero" in (why_not(gold) or ""):
        return "division by zero"
    pieces: list[str] = []
    for part in shape.split_list(gold):
        members = shape.chain(part).members
        # Of x = 5 only the value is compared, of an equation both sides.
        pieces += members[-1:] if any(map(shape.is_name, members[:-1])) else members
    for piece in pieces:
        boxed = shape.bracketed(shape.without_membership(piece))
        for item in boxed.items if boxed else shape.ratio(shape.without_membership(piece)):
            item = normalize(item)
            if not item:
                return "an element is empty"
            if (
                parse_number(item) is None
                and not _has_words(item)
                and "\\ldots" not in item
                and symbolic.parse_latex(item.replace("'", "")) is None
            ):
                return f"cannot be parsed: {item[:80]}"
    return None
