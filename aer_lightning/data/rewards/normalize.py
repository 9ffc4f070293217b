r"""One spelling for LaTeX that means the same: what is compared character by character, and what the later steps parse."""

from __future__ import annotations

import re
from collections.abc import Callable

from aer_lightning.data.rewards.limits import collapse_braces

_Replacement = str | Callable[[re.Match[str]], str]
_PATTERNS: list[tuple[str, _Replacement]] = [
    (r"\\n(?![a-zA-Z])", " "),  # an escaped newline from twice-encoded JSON
    (r"\\(?:boxed|fbox)\s*(?=\{)", ""),
    (r"\\[!]\s*", ""),  # negative space, as in 32,\!349
    (r"\s*\{\s*,\s*\}\s*", ","),  # thousands as 32{,}349
    (r"\\(?:displaystyle|textstyle|limits|left|right|bigl?|bigr|Bigl?|Bigr|biggl?|biggr|Biggl?|Biggr)(?![a-zA-Z])", ""),
    (r"\\(?:quad|qquad|hspace\{[^{}]*\}|hfill|thinspace)|(?<!\\)\\[,;:> ]|~|(?<!\\)\\$", " "),
    (r"\\[()\[\]]|(?<!\\)\$|\*\*", " "),
    (r"\\\$", "$"),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (
        r"\\(?:textbf|textit|textrm|textnormal|textsf|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathtt|operatorname|emph|bf|rm|bold)\s*(?=\{)",
        r"\\text",
    ),
    (r"\\text\{([^{}a-zA-Z\\]*)\}", r"\1"),  # digits and signs wrapped in text
    (
        r"\\(?:%|text\{\s*%\s*\})|\\?%|\\text\{\s*(?:percent|percentage|pct)\s*\}|(?<![a-zA-Z\\])(?:percent(?:age)?|pct)(?![a-zA-Z])",
        "%",
    ),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)(?![a-zA-Z])|\\degrees?(?![a-zA-Z])|\^\s*\{\s*\\text\{\s*o\s*\}\s*\}", r"\\degree "),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\leq(?:slant)?(?![a-zA-Z])|<=", r"\\le "),
    (r"\\geq(?:slant)?(?![a-zA-Z])|>=", r"\\ge "),
    (r"\\ne(?![a-zA-Z])|!=|\\not\s*=", r"\\neq "),
    (r"\\(?:simeq|sim|cong|doteq|thickapprox)(?![a-zA-Z])|~=", r"\\approx "),
    (r"\\(?:lbrace)(?![a-zA-Z])", r"\\{"),
    (r"\\(?:rbrace)(?![a-zA-Z])", r"\\}"),
    (r"\\(?:lbrack)(?![a-zA-Z])", "["),
    (r"\\(?:rbrack)(?![a-zA-Z])", "]"),
    (r"\\(?:dots|cdots|dotsc|dotsb)(?![a-zA-Z])|\.\.\.", r"\\ldots "),
    (r"\\bmod(?![a-zA-Z])", r"\\mod "),
    (r"(?<![A-Za-z\\\d_^{])([A-Za-z])(\d{1,2})(?![\d_.])", r"\1_{\2}"),  # x1 is x_1, not x times 1
    (r"\\varnothing(?![a-zA-Z])", r"\\emptyset "),
    (r"\s*\^\s*(?:\{\s*((?:\\prime\s*)+)\}|\\prime(?![a-zA-Z]))", lambda m: "'" * max(1, (m[1] or "").count("prime"))),
    (r"_\s*\{\s*\\(?:text\s*\{\s*)?(\w+)\s*\}(?:\s*\})?", r"_{\1}"),
    (r"(?<![\w)}\]])\s*\+\s*\\infty", r"\\infty"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
    (r"\\frac\s*(\{[^{}]*\})\s*(\d)", r"\\frac\1{\2}"),
    (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
    (r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", r"\\pi "),
]
_RULES = [(re.compile(pattern), to) for pattern, to in _PATTERNS]
_DOUBLE_BACKSLASH = re.compile(r"\\\\(?=[a-zA-Z(\[{])")
_SPACES = re.compile(r"\s+")
_LOOSE_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")


def normalize(answer: str) -> str:
    r"""``answer`` in canonical LaTeX: no sizing, spacing or math delimiters, one name for each command, ``\frac{a}{b}`` with braces.

    Nothing that carries meaning is dropped: words stay as ``\text{...}``, a percent sign stays, units stay.
    """
    text = answer
    if "\\begin" not in text:  # in a matrix a double backslash ends a row
        text = _DOUBLE_BACKSLASH.sub(lambda _: "\\", text)
    for pattern, to in _RULES:
        text = pattern.sub(to, text)
    text = _SPACES.sub(" ", collapse_braces(text)).strip()
    text = text.strip('"`').rstrip()
    while text.endswith((".", ",", ";", ":")) and not text.endswith(("\\,", "\\;", "\\:")):
        text = text[:-1].rstrip()
    return strip_group(text)


def strip_group(text: str) -> str:
    """Remove braces that enclose the whole text."""
    while text.startswith("{") and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def closing(text: str, start: int) -> int:
    r"""Index of the bracket that closes the one at ``start`` (``{``, ``(`` or ``[``), or -1. Brackets of other kinds may mix: ``[0,1)``."""
    depth = 0
    i = start
    while i < len(text):
        char = text[i]
        if char == "\\" and text[i + 1 : i + 2] not in ("{", "}"):
            i += 2
            continue
        if char in "{([":
            depth += 1
        elif char in "})]":
            depth -= 1
            if depth == 0:
                return i
        i += 1
    return -1


def squash(answer: str) -> str:
    """The form in which two answers are compared as characters: no spaces, except between two digits."""
    return _LOOSE_SPACE.sub("", answer)
