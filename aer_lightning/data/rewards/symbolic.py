"""Comparison by computer algebra: math-verify's parser and verifier, with checks where they are known to accept too much.

Runs in worker processes only: what is parsed here may ask for any amount of time and memory. The text of a model reaches no other
parser than math-verify's LaTeX grammar; nothing here calls ``eval``, ``sympify`` or ``parse_expr`` on it.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.math_normalization import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.function import AppliedUndef
from sympy.core.random import seed as seed_sympy
from sympy.core.relational import Equality, Relational

from aer_lightning.data.rewards.grammar import explicit, why_not
from aer_lightning.data.rewards.numbers import Number, precise_decimal

# Units are read before this point; math-verify's own list would also take a variable for one ("4t" -> 4).
_CONFIG = LatexExtractionConfig(
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last", equations=False
    ),
)
_DIGITS = 100
_PROBES = 6


def _settle() -> None:
    """Bring sympy's random numbers, of which its simplifications make use, into the same state before every comparison."""
    seed_sympy(0)


@lru_cache(maxsize=512)
def parse_latex(answer: str) -> Any:
    """The sympy object that ``answer`` (normalised LaTeX, within the caps) stands for, or None if it cannot or must not be parsed."""
    if why_not(answer):
        return None
    found = parse(
        rf"\boxed{{{explicit(answer)}}}", [_CONFIG], fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=0
    )
    value = found[0] if found else None
    if isinstance(value, sympy.Expr):  # the parser leaves i as a symbol
        value = value.subs({symbol: sympy.I for symbol in value.free_symbols if symbol.name == "i"})
    return value


def is_constant(answer: str) -> bool:
    """True if ``answer`` parses to a number without free symbols."""
    return _constant(parse_latex(answer)) is not None


def _exact(value: Any) -> Any:
    """``value`` evaluated, with the decimals that it was written with as fractions."""
    return value.replace(lambda e: e.is_Float, lambda e: sympy.Rational(str(e))).doit()


def _constant(value: Any) -> Any:
    """The exact constant, or None for sets, relations, matrices, expressions with symbols and what is not a number (0/0, infinity)."""
    if not isinstance(value, sympy.Expr) or isinstance(value, sympy.matrices.MatrixBase) or value.free_symbols:
        return None
    if value.has(AppliedUndef):  # f(2) has no value
        return None
    exact = _exact(value)
    if not isinstance(exact, sympy.Expr) or exact.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo) or not exact.is_number:
        return None
    return exact


def constants_equal(a: Any, b: Any) -> bool:
    """Equality of two exact constants: as rationals where they are, else to 100 significant digits of the larger one.

    A fixed number of decimals, as in math-verify, would make all tiny numbers equal.
    """
    if a.is_Rational and b.is_Rational:
        return bool(a == b)
    if a == b:
        return True
    difference = sympy.N(a - b, _DIGITS, maxn=400, chop=False)
    scale = abs(sympy.N(a, _DIGITS)) + abs(sympy.N(b, _DIGITS))
    if not (difference.is_number and scale.is_number):
        return False
    return bool(abs(difference) <= scale * sympy.Float(10, _DIGITS) ** -(_DIGITS // 2)) and (a - b).equals(0) is not False


def number_equals_constant(number: Number, answer: str, tolerance: float = 0.0) -> bool | None:
    """Whether an exact number, a precise decimal or one within ``tolerance`` states ``answer``; None if ``answer`` is no constant."""
    _settle()
    constant = _constant(parse_latex(answer))
    if constant is None:
        return None
    value = sympy.Rational(number.value.numerator, number.value.denominator)
    if number.percent:
        value = value / 100
    if constants_equal(value, constant):
        return True
    if tolerance and constant.is_real and abs(sympy.N(constant - value, _DIGITS)) <= tolerance * abs(value):
        return True
    if constant.is_integer or not precise_decimal(number) or not constant.is_real:
        return False
    unit = sympy.Rational(1, 10 ** (number.decimals or 0))
    missing = sympy.N((constant - value) * sympy.sign(constant), _DIGITS)  # positive where digits were cut off
    return bool(-unit / 2 <= missing < unit)


def evaluate(answer: str) -> sympy.Rational | None:
    """The exact rational that a constant expression evaluates to, or None."""
    constant = _constant(parse_latex(answer))
    return constant if constant is not None and constant.is_Rational else None


def expressions_equal(gold: str, pred: str) -> bool | None:
    """Whether two normalised expressions mean the same; None if ``pred`` cannot be parsed.

    Constants are decided here exactly. Everything else is math-verify's verdict, which has to survive a numeric probe.
    """
    g, p = parse_latex(gold), parse_latex(pred)
    if p is None:
        return None
    if g is None:
        return False
    _settle()
    cg, cp = _constant(g), _constant(p)
    if cg is not None and cp is not None:
        return constants_equal(cg, cp)
    if isinstance(p, sympy.Basic) and p.has(sympy.nan, sympy.zoo):
        return False
    if any(c is not None and isinstance(o, sympy.Expr) and o.has(sympy.oo, -sympy.oo) for c, o in ((cg, p), (cp, g))):
        return False  # sympy.simplify(oo * (1/2) * pi - 110) is 0 for 1 in 150 states of its random numbers
    if isinstance(g, Equality) and isinstance(p, Equality):
        same = _proportional(g, p)
        if same is not None:
            return same
    return bool(verify(g, p, timeout_seconds=0, allow_set_relation_comp=True)) and not _refuted(g, p)


def _probe(expression: Any, symbols: list[Any], rng: random.Random) -> Any:
    values = {symbol: sympy.Rational(rng.randint(3, 97), rng.randint(7, 89)) for symbol in symbols}
    return sympy.N(expression.subs(values), 30)


def _proportional(gold: Any, pred: Any) -> bool | None:
    """Whether two equations differ by a constant factor; None where probing does not tell and solving has to."""
    a, b = _exact(gold.lhs - gold.rhs), _exact(pred.lhs - pred.rhs)
    if a.free_symbols != b.free_symbols:
        return False
    symbols = sorted(a.free_symbols, key=str)
    rng = random.Random(0)
    ratios = []
    for _ in range(_PROBES):
        state = rng.getstate()
        top = _probe(a, symbols, rng)
        rng.setstate(state)
        bottom = _probe(b, symbols, rng)
        if not (top.is_number and bottom.is_number) or bottom == 0 or top == 0:
            return None
        ratios.append(top / bottom)
    if all(abs(r - ratios[0]) <= abs(ratios[0]) * sympy.Float(10) ** -20 for r in ratios):
        return True
    if a.is_polynomial(*symbols) and b.is_polynomial(*symbols) and len(symbols) > 1:
        # Two curves: the same one only if each polynomial divides a power of the other; equal degree and no constant ratio differ.
        return False
    # math-verify compares lists of solutions and finds two empty ones equal.
    return None if sympy.solve(gold, symbols) and sympy.solve(pred, symbols) else False


def _refuted(gold: Any, pred: Any) -> bool:
    """True if a number shows that two objects which math-verify calls equal are not."""
    if isinstance(gold, sympy.matrices.MatrixBase) and isinstance(pred, sympy.matrices.MatrixBase):
        return gold.shape != pred.shape or any(_refuted(a, b) for a, b in zip(gold, pred, strict=True))
    if isinstance(gold, sympy.Interval) and isinstance(pred, sympy.Interval):
        return _refuted(gold.start, pred.start) or _refuted(gold.end, pred.end)
    if isinstance(gold, Relational) or isinstance(pred, Relational):
        return False
    if not (isinstance(gold, sympy.Expr) and isinstance(pred, sympy.Expr)):
        return False
    symbols = sorted(gold.free_symbols | pred.free_symbols, key=str)
    rng = random.Random(0)
    for _ in range(_PROBES):
        state = rng.getstate()
        a = _probe(_exact(gold), symbols, rng)
        rng.setstate(state)
        b = _probe(_exact(pred), symbols, rng)
        if not all(value.is_number and value.is_finite for value in (a, b)):
            continue  # a pole, or a function without a value
        if abs(a - b) > (abs(a) + abs(b)) * sympy.Float(10) ** -15:
            return True
    return False


def constant_rounds_to(answer: str, shown: Number) -> bool:
    """Whether the exact constant ``answer`` rounds to ``shown`` at the last place that it writes."""
    constant = _constant(parse_latex(answer))
    if constant is None or not constant.is_real:
        return False
    value = sympy.Rational(shown.value.numerator, shown.value.denominator)
    return bool(abs(sympy.N(constant - value, 60)) <= sympy.Rational(1, 2 * 10 ** (shown.decimals or 0)))
