r"""Exact integers and rationals, read by regular expressions alone: most answers never need a computer algebra system.

Values are :class:`fractions.Fraction`. Floating point is not used anywhere, so two large integers that differ by one differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, inf

from aer_lightning.data.rewards.units import UNIT_PATTERN, Unit, read_unit

# A decimal stands for a value that has no finite decimal only if it is written to nearly the precision of a double.
MIN_SIGNIFICANT = 12
_MAX_POWER_BITS = 30_000

_UNSIGNED = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?: \d{3})+(?:\.\d+)?|\d+\.\d+|\d+\.?|\.\d+)"
_SIGNED = rf"[+-]?\s*{_UNSIGNED}"
_BRACED = rf"\{{\s*({_SIGNED})\s*\}}"
_DECIMAL = re.compile(_SIGNED)
_FRACTION = re.compile(rf"([+-]?)\s*\\frac{_BRACED}{_BRACED}")
_SLASH = re.compile(rf"({_SIGNED})\s*/\s*({_UNSIGNED})")
_MIXED = re.compile(r"([+-]?)\s*(\d+)\s*(?:\\frac\{\s*(\d+)\s*\}\{\s*(\d+)\s*\}|\s(\d+)/(\d+))")
_POWER = re.compile(rf"(-?)\s*({_UNSIGNED})\s*\^\s*(?:\{{\s*([+-]?\d{{1,6}})\s*\}}|(\d)(?!\d))")
_SCIENTIFIC = re.compile(
    rf"({_SIGNED})\s*(?:(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{{\s*([+-]?\d{{1,4}})\s*\}}|(\d)(?!\d))|[eE]([+-]?\d{{1,4}}))"
)
_ROOT = re.compile(r"([+-]?)\s*\\sqrt(?:\[\s*([2-9])\s*\])?\{\s*(\d{1,30})\s*\}")
_REPEATING = re.compile(r"([+-]?)\s*(\d*)\.(\d*)\\(?:overline|bar|dot)\{(\d+)\}")
_WRAPPED = re.compile(r"\(\s*([^()]*)\s*\)")
_CURRENCY = re.compile(r"^([+-]?)\s*(?:\$|€|£|¥|₹|\\text\{\s*(?:Rs\.?|USD|EUR|GBP|US\$)\s*\}|\\pounds|\\euro)\s*")
_BASED = re.compile(r"\(?\s*([\dA-Za-z][\dA-Za-z ,]{0,200}?)\s*\)?\s*_\s*(?:\{\s*(?:base|mod)?\s*(\d{1,2})\s*\}|(\d))")
_UNIT = re.compile(rf"\s*({UNIT_PATTERN})\s*$")


@dataclass(frozen=True, slots=True)
class Number:
    r"""An exact rational with what its spelling said.

    Attributes:
        value: the exact value, without the percent sign.
        decimals: digits after the decimal point, or None if it was not written as a decimal.
        percent: True if a percent sign followed.
        unit: the unit that followed, or None.
        evaluated: False if arithmetic is left to do: a fraction not in lowest terms, a power of another base than ten.
        radicand: of a root that is a whole number, ``\sqrt{4}``, which is a number where its radicand is not the question's.
    """

    value: Fraction
    decimals: int | None = None
    percent: bool = False
    unit: Unit | None = None
    evaluated: bool = True
    radicand: str | None = None


_ELSEWHERE = [  # digits grouped as in other countries; a comma alone is a decimal one only after a zero
    (re.compile(r"([+-]?\d{1,3}(?:\.\d{3})+),(\d+)"), lambda m: m[1].replace(".", "") + "." + m[2]),
    (re.compile(r"([+-]?)(\d{1,3}(?:\.\d{3}){2,})"), lambda m: m[1] + m[2].replace(".", "")),
    (re.compile(r"([+-]?)(\d{1,3}(?:'\d{3})+(?:\.\d+)?)"), lambda m: m[1] + m[2].replace("'", "")),
    (re.compile(r"([+-]?)(\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?)"), lambda m: m[1] + m[2].replace(",", "")),
    (re.compile(r"([+-]?0),(\d+)"), lambda m: f"{m[1]}.{m[2]}"),
]
_DECIMAL_COMMA = re.compile(r"([+-]?\s*\d+),(\d{1,2}|\d{4,})(?=\D*$)")


def decimal_comma(answer: str) -> str:
    """``answer`` with its decimal comma as a point: ``2,5 cm`` -> ``2.5 cm``. Without a comma that can be one it stays as it is."""
    return _DECIMAL_COMMA.sub(r"\1.\2", answer) if answer.count(",") == 1 else answer


def _fraction(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").rstrip(".") or "0")


def parse_number(answer: str) -> Number | None:
    """Read normalised ``answer`` as one exact number with an optional currency, percent sign or unit; None if it is anything else."""
    text = answer.strip()
    currency = _CURRENCY.match(text)
    if currency:
        text = currency.group(1) + text[currency.end() :]
    bare = _parse_bare(text)
    if bare is not None:
        unit = Unit("dollar") if currency and "$" in currency.group() else None
        return Number(bare[0], bare[1], unit=unit, evaluated=_evaluated(text), radicand=_radicand(text))
    percent, unit = False, None
    if text.endswith("%"):
        percent, text = True, text[:-1].rstrip()
    else:
        found = _UNIT.search(text)
        unit = read_unit(found.group(1), attached=found.start() == found.start(1)) if found else None
        if found is None or unit is None:
            return None
        text = text[: found.start()].rstrip()
    bare = _parse_bare(text)
    if bare is None:
        return None
    scale = unit.scale if unit else 1
    return Number(bare[0] * scale, bare[1] if scale == 1 else None, percent, unit, _evaluated(text), _radicand(text))


def _radicand(text: str) -> str | None:
    root = _ROOT.fullmatch(text)
    return root[3] if root else None


def _evaluated(text: str) -> bool:
    """Whether nothing is left to compute in a number that has been read."""
    wrapped = _WRAPPED.fullmatch(text)
    if wrapped:
        text = wrapped.group(1).strip()
    if power := _POWER.fullmatch(text):
        return _fraction(power[2]) == 10
    if (over_under := _FRACTION.fullmatch(text)) and not _MIXED.fullmatch(text):
        over, under = over_under[2], over_under[3]
    elif over_under := _SLASH.fullmatch(text):
        over, under = over_under[1], over_under[2]
    else:
        return True
    numbers = [_fraction(over), _fraction(under)]
    return all(n.denominator == 1 for n in numbers) and abs(numbers[1]) > 1 and gcd(*(n.numerator for n in numbers)) == 1


def _parse_bare(text: str) -> tuple[Fraction, int | None] | None:
    """Value and decimals of a number without unit."""
    wrapped = _WRAPPED.fullmatch(text)
    if wrapped:
        text = wrapped.group(1).strip()
    for pattern, english in _ELSEWHERE:
        if elsewhere := pattern.fullmatch(text):
            text = english(elsewhere)
    try:
        if _DECIMAL.fullmatch(text):
            _, point, decimals = text.partition(".")
            return _fraction(text), len(decimals) if point and decimals else None
        if m := _MIXED.fullmatch(text):
            over, under = Fraction(m[3] or m[5]), Fraction(m[4] or m[6])
            value = int(m[2]) + over / under
            return (-value if m[1] == "-" else value), None
        if m := _FRACTION.fullmatch(text):
            value = _fraction(m[2]) / _fraction(m[3])
            return (-value if m[1] == "-" else value), None
        if m := _SLASH.fullmatch(text):
            return _fraction(m[1]) / _fraction(m[2]), None
        if m := _POWER.fullmatch(text):
            base, power = _fraction(m[2]), int(m[3] or m[4])
            bits = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(power)
            if bits > _MAX_POWER_BITS:
                return None
            return (-(base**power) if m[1] else base**power), None
        if m := _SCIENTIFIC.fullmatch(text):
            return _fraction(m[1]) * Fraction(10) ** int(m[2] or m[3] or m[4]), None
        if (m := _ROOT.fullmatch(text)) and (root := _whole_root(int(m[3]), int(m[2] or 2))) is not None:
            return Fraction(-root if m[1] == "-" else root), None
        if m := _REPEATING.fullmatch(text):
            whole, head, tail = m[2] or "0", m[3], m[4]
            value = Fraction(int(whole + head), 10 ** len(head)) + Fraction(int(tail), 10 ** len(head) * (10 ** len(tail) - 1))
            return (-value if m[1] == "-" else value), None
    except (ZeroDivisionError, ValueError):  # 1/0 is no number; int() refuses more digits than the interpreter's own limit
        return None
    return None


def _whole_root(value: int, degree: int) -> int | None:
    """The root if it is a whole number, exactly."""
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    return low if low**degree == value else None


@dataclass(frozen=True, slots=True)
class Based:
    """A numeral with its base as a subscript, ``4210_{5}``."""

    digits: str
    base: int


def parse_based(answer: str) -> Based | None:
    """Read a numeral with a base from 2 to 36; None for anything else."""
    match = _BASED.fullmatch(re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", answer))
    if not match or ("," in match.group(1) and not re.fullmatch(r"\w{1,3}(?:,\w{3})+", match.group(1).strip())):
        return None
    digits, base = match.group(1).upper().replace(" ", "").replace(",", "").lstrip("0") or "0", int(match.group(2) or match.group(3))
    name = len(digits) == 1 and digits.isalpha()  # a_{12} is the twelfth of a sequence
    if name or not 2 <= base <= 36 or any(int(digit, 36) >= base for digit in digits):
        return None
    return Based(digits, base)


def based_equal(gold: Based | None, pred: Based | None, g: Number | None, p: Number | None) -> bool:
    """Compare where at least one side names its base: the same digits in the same base, or the base left out where the gold gives it.

    A base that only the prediction names has to give the gold's value: ``204_5`` is 54, not 204.
    """
    if gold and pred:
        return gold == pred
    if gold:
        return p is not None and p.value.denominator == 1 and str(p.value) == gold.digits and not p.percent
    return pred is not None and g is not None and not g.percent and g.value == int(pred.digits, pred.base)


def significant_digits(number: Number) -> int:
    """Digits of a decimal from its first one that is not zero."""
    return len(str(abs(int(number.value * 10 ** (number.decimals or 0)))))


def precise_decimal(number: Number) -> bool:
    """True if the number is written with enough decimals to stand for an exact value that has no finite decimal."""
    return number.decimals is not None and significant_digits(number) >= MIN_SIGNIFICANT


def numbers_equal(gold: Number, pred: Number, tolerance: float = 0.0) -> bool:
    r"""Whether ``pred`` states the value of ``gold``.

    Integers and fractions are equal or they are not. A decimal of twelve or more significant digits may be the rounding or the truncation
    of the other number (``0.333333333333`` for 1/3), never of an integer. Two units must agree where both are known; one may be left out.

    Percent: with a sign on both sides the numbers are compared. With one sign, the bare number is read as a proportion if it is at most 1
    in absolute value (``50\%`` is .5), as a number of percent if it is a larger integer (``20\%`` is 20; ``5000\%`` is not 50), either
    way otherwise. A ``tolerance`` is the relative error that is allowed beyond this.
    """
    if gold.unit and pred.unit and not gold.unit.same(pred.unit):
        return False
    if gold.percent == pred.percent:
        return _values_equal(gold, pred, tolerance)
    bare, signed = (pred, gold) if gold.percent else (gold, pred)
    share = Number(signed.value / 100, None if signed.decimals is None else signed.decimals + 2)
    if pred is bare:  # the gold answer shows that percent are asked: both "20" and "0.2" answer it
        return _values_equal(bare, signed, tolerance) or _values_equal(bare, share, tolerance)
    if abs(bare.value) <= 1:
        return _values_equal(bare, share, tolerance)
    asked = bare.decimals is not None or bare.value.denominator == 1  # nobody gives 10/9 as a number of percent
    return (asked and _values_equal(bare, signed, tolerance)) or (bare.value.denominator != 1 and _values_equal(bare, share, tolerance))


def _values_equal(a: Number, b: Number, tolerance: float) -> bool:
    if a.value == b.value or abs(a.value - b.value) <= Fraction(tolerance) * min(abs(a.value), abs(b.value)):
        return True
    if a.value.denominator == 1 or b.value.denominator == 1:
        return False
    shown, exact = sorted((a, b), key=lambda n: inf if n.decimals is None else n.decimals)
    # Both have to be precise where both are decimals: a short decimal is exactly what it says.
    if not precise_decimal(shown) or (exact.decimals is not None and not precise_decimal(exact)):
        return False
    return rounds_to(exact.value, shown) or truncates_to(exact.value, shown)


def truncates_to(exact: Fraction, shown: Number) -> bool:
    """True if ``shown`` is ``exact`` with the digits after the last place that it writes cut off."""
    return exact * shown.value >= 0 and 0 <= abs(exact) - abs(shown.value) < Fraction(1, 10 ** (shown.decimals or 0))


def rounds_to(exact: Fraction, shown: Number) -> bool:
    """True if ``shown`` is a rounding of ``exact`` at the last place that it writes (half a unit of that place, ends included)."""
    return abs(exact - shown.value) <= Fraction(1, 2 * 10 ** (shown.decimals or 0))
