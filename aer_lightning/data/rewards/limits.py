r"""Caps on an answer before any parser sees it: length, nesting, and the size of the numbers it would make.

A power tower of nine characters asks for more memory than any machine has; no timer inside the process ends it. The estimate here
costs microseconds and is deliberately pessimistic: what it refuses can still be right by being written like the gold answer.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_NUMERAL = re.compile(r"\d[\d,]*(?:\.\d+)?")
_OPEN, _CLOSE = "{([", "})]"


@dataclass(frozen=True)
class Caps:
    """Limits on one extracted answer.

    Attributes:
        chars: longest answer, in characters.
        nesting: deepest brackets, braces included.
        literal_digits: longest written number, in digits.
        value_digits: largest number an expression may stand for, in decimal digits.
        parts: most elements of a list, tuple, set or matrix.
    """

    chars: int = 1_000
    nesting: int = 24
    literal_digits: int = 1_000
    value_digits: float = 8_000
    parts: int = 64

    def refuse(self, answer: str) -> str | None:
        """Why ``answer`` must not reach a parser, or None."""
        if len(answer) > self.chars:
            return f"answer longer than {self.chars} characters"
        if nesting(answer) > self.nesting:
            return f"nested deeper than {self.nesting}"
        if any(sum(c.isdigit() for c in m.group()) > self.literal_digits for m in _NUMERAL.finditer(answer)):
            return f"number longer than {self.literal_digits} digits"
        if max(map(answer.count, (",", ";", "&"))) >= self.parts:
            return f"more than {self.parts} parts"
        if digits_bound(answer) > self.value_digits:
            return f"number larger than 10^{self.value_digits:g}"
        return None


def nesting(text: str) -> int:
    """Depth of the deepest bracket; an unmatched closing one counts as nothing."""
    depth = deepest = 0
    for char in text:
        if char in _OPEN:
            depth += 1
            deepest = max(deepest, depth)
        elif char in _CLOSE and depth:
            depth -= 1
    return deepest


def collapse_braces(text: str) -> str:
    r"""Drop braces that only wrap braces: ``{{x}}`` -> ``{x}``. Linear; keeps ``\{``."""
    stack: list[int] = []
    pair: dict[int, int] = {}
    skip = False
    for i, char in enumerate(text):
        if skip:
            skip = False
        elif char == "\\":
            skip = True
        elif char == "{":
            stack.append(i)
        elif char == "}" and stack:
            pair[stack.pop()] = i
    drop = {j for i, end in pair.items() if pair.get(i + 1) == end - 1 for j in (i + 1, end - 1)}
    return "".join(c for i, c in enumerate(text) if i not in drop) if drop else text


def digits_bound(text: str) -> float:
    """Upper bound on the decimal digits of the numbers that ``text`` stands for; ``inf`` where they are beyond any use."""
    try:
        return _Bound(text.replace("\\left", "").replace("\\right", "").replace("**", "^")).read(0, "")[0]
    except (OverflowError, RecursionError):  # a chain of hundreds of carets is a bomb whatever its numbers are
        return math.inf


class _Bound:
    """Reads an expression once, adding up log10 of its factors as if every sign between them were a multiplication."""

    def __init__(self, text: str):
        self.text = text

    def read(self, i: int, until: str) -> tuple[float, int]:
        total = 0.0
        while i < len(self.text):
            if self.text[i] in _CLOSE:
                if until:
                    return total, i + 1
                i += 1
                continue
            size, i = self.factor(i)
            total += size
        return total, i

    def factor(self, i: int) -> tuple[float, int]:
        """One atom with the powers and factorials that follow it."""
        start = i
        size, i = self.atom(i)
        # A power of a symbol costs as much as one of a number of a digit: (x+1)^{n} has n terms.
        least = 1.0 if any(map(str.isalpha, self.text[start:i])) else 0.0
        while i < len(self.text):
            if self.text[i] == " ":
                i += 1
            elif self.text[i] == "^":
                power, i = self.exponent(i + 1)
                size = max(size, least) * _value(power) if size or least else 0.0
            elif self.text[i] == "!":
                size = math.lgamma(max(_value(size), 1.0) + 1.0) / math.log(10.0)
                i += 1
            else:
                break
        return size, i

    def exponent(self, i: int) -> tuple[float, int]:
        """The exponent after a caret; ``a^b^c`` is read from the right, as parsers do."""
        while i < len(self.text) and self.text[i] in " +-":
            i += 1
        return self.factor(i)

    def atom(self, i: int) -> tuple[float, int]:
        if i >= len(self.text):
            return 0.0, i
        char = self.text[i]
        if char in _OPEN:
            return self.read(i + 1, char)
        numeral = _NUMERAL.match(self.text, i)
        if numeral:
            whole = numeral.group().split(".")[0].replace(",", "").lstrip("0")
            return (math.log10(int(whole[:15])) + max(len(whole) - 15, 0) if whole else 0.0), numeral.end()
        if char == "\\":
            end = i + 1
            while end < len(self.text) and self.text[end].isalpha():
                end += 1
            return 0.0, max(end, i + 2)
        return 0.0, i + 1


def _value(log10: float) -> float:
    """The number whose base-10 logarithm is given, ``inf`` where an exponent of that size is hopeless anyway."""
    return 10.0**log10 if log10 < 9 else math.inf
