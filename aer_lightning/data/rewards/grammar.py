r"""The LaTeX that may reach math-verify's parser, and the spelling in which it reads it as a mathematician does.

The parser is forgiving where a grader must not be (all measured with math-verify 0.9.0, latex2sympy2_extended 1.11): it adds numbers
that stand side by side (``6(7)`` is 13, ``4 2`` is 6, ``\phantom{43}42`` is 85), drops ``\ldots`` (``1+2+\ldots+10`` is 13), primes
(``f'`` is ``f``), subscripts of numbers (``42_{43}`` is 42) and the case of letters, and takes ``\newline`` for ``\ne wline``.
So only known commands pass, multiplication is made explicit, and what would be dropped is refused.
"""

from __future__ import annotations

import re

_COMMAND_LIST = r"""frac sqrt pi infty cdot times div pm mp ast sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh arcsinh arccosh
    arctanh log ln lg exp le ge neq in notin cup cap setminus emptyset varnothing begin end binom dbinom tbinom mathbb mod approx
    lfloor rfloor lceil rceil lvert rvert vert overline bar hat vec widehat widetilde tilde gcd lcm max min sum prod int lim to det
    subset subseteq angle triangle alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho
    varrho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell Re Im arg
    langle rangle text"""
_COMMANDS = frozenset(_COMMAND_LIST.split())
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)", re.DOTALL)
_ENVIRONMENT = re.compile(r"\\begin\{(\w+)\}")
_SIDE_BY_SIDE = re.compile(r"(?<![_\d])[\d.]\s+[\d.]|(?<!_)\d[\d.]\s+[\d.]|\d\s*\{\s*[\d.]|\}\s*\{\s*[\d.]+\s*\}\s*\d+\s+\d")
_MIXED = re.compile(r"\\frac\{(\d+)\}\{(\d+)\}(?![a-zA-Z\d\\({])")
_INTEGER_BEFORE = re.compile(
    r"(?<![\d._^a-zA-Z\\])(?<!_\{)(\d+(?:\.\d+)?)\s*(?=[(\[]|\\[dt]?binom|\\frac|\\(?:lfloor|lceil|gcd|max|min|det|left))"
)
_BETWEEN = re.compile(r"(?<=\))\s*(?=\(|\\frac|\\[dt]?binom|\d)")
_BASE = re.compile(r"(?<![a-zA-Z}])\d\s*_")


def why_not(answer: str) -> str | None:
    """Why the parser must not read ``answer``, or None."""
    depth = 0
    for match in re.finditer(r"\\.|[{}]", answer, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth < 0:
            break
    if depth:
        return "braces do not match"
    names = [m.group(1) for m in _COMMAND.finditer(answer)]
    matrix = any(env.group(1) != "cases" for env in _ENVIRONMENT.finditer(answer))
    for name in names:
        if name not in _COMMANDS and name not in ("{", "}") and not (matrix and name in ("\\", "&")):
            return f"command \\{name} is not understood"
    if stray := re.search(r"[^\w\s+\-*/^=<>(){}\[\]|,;.!\\&%]", answer, re.ASCII):
        return f"character {stray.group()!r} is not understood"
    if "&" in answer and not matrix:
        return "character '&' is not understood"
    if "_" in answer and _BASE.search(answer):
        return "a number with a subscript is not understood"
    if re.search(r"\\infty\s*[\d.]|\d\s*[-+*]?\s*\\infty", answer):
        return "arithmetic with infinity is not understood"
    if re.search(r"/\s*\{?\s*0(?![\d.])|\\frac\{(?:[^{}]|\{[^{}]*\}){1,80}\}\s*\{\s*0\s*\}", answer):
        return "division by zero"
    if re.search(r"\\infty\s*\]|\[\s*-\s*\\infty", answer):
        return "an interval does not contain infinity"
    if _SIDE_BY_SIDE.search(answer):
        return "numbers stand side by side"
    if _nested_equals(answer):
        return "an equals sign inside brackets is not understood"
    return None


def _nested_equals(answer: str) -> bool:
    """An equation inside brackets, other than the lower bound of a sum or product."""
    bounds = re.sub(r"_\s*\{[^{}]*\}", "", answer)
    depth = 0
    for char in bounds:
        depth += (char in "{([") - (char in "})]")
        if char == "=" and depth > 0:
            return True
    return False


def explicit(answer: str) -> str:
    r"""Write the multiplications that the parser would take for additions: ``6(7)`` -> ``6 \cdot (7)``. A mixed number stays one."""

    def times(match: re.Match[str]) -> str:
        fraction = _MIXED.match(answer, match.end())
        if fraction and "." not in match.group(1) and 0 < int(fraction.group(1)) < int(fraction.group(2)):
            return match.group()
        return match.group(1) + r" \cdot "

    answer = answer.replace("\\dbinom", "\\binom").replace("\\tbinom", "\\binom").replace("**", "^")
    answer = _INTEGER_BEFORE.sub(times, answer)
    return _BETWEEN.sub(r" \\cdot ", answer)


_PRIMED = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?:_(?:\w|\{\w{1,6}\}))?'+")
_LETTERS = re.compile(r"\\begin\{\w+\}|\\end\{\w+\}|\\mathbb\{\w\}|\\[A-Za-z]+|[A-Za-z]")
_SPARE = "qwzvukjpsty"


def separate_names(gold: str, pred: str) -> tuple[str, str]:
    """Give names that the parser confuses a letter of their own in both answers.

    It makes ``R`` and ``r`` one symbol, so that ``R^2 - r^2`` would be 0, and drops primes, so that ``f'`` would be ``f``.
    """
    letters = {m.group() for text in (gold, pred) for m in _LETTERS.finditer(text) if len(m.group()) == 1}
    free = (letter for letter in _SPARE if letter not in letters and letter.upper() not in letters)
    primed = {name: next(free, name) for name in sorted({m.group() for text in (gold, pred) for m in _PRIMED.finditer(text)})}
    gold, pred = (_PRIMED.sub(lambda m: f" {primed[m.group()]} ", text) for text in (gold, pred))
    used = {m.group() for text in (gold, pred) for m in _LETTERS.finditer(text) if len(m.group()) == 1}
    spare = iter(letter for letter in _SPARE if letter not in used and letter.upper() not in used)
    names = {letter: next(spare, letter) for letter in sorted(used) if letter.isupper() and letter.lower() in used}
    if not names:
        return gold, pred
    return tuple(_LETTERS.sub(lambda m: names.get(m.group(), m.group()), text) for text in (gold, pred))  # type: ignore[return-value]
