r"""The outer shape of an answer, read without a parser: lists, tuples, sets, unions, ratios, equation chains, names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aer_lightning.data.rewards.normalize import closing, strip_group

_LIST_WORD = re.compile(r"\\text\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_EQUALS = re.compile(r"(?<![<>!:=\\])=(?!=)|\\approx(?![a-zA-Z])|\\equiv(?![a-zA-Z])")
_LEADING_EQUALS = re.compile(r"^\s*=\s*")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|neq|in)(?![a-zA-Z])")
_MEMBER_OF = re.compile(r"^\s*(?:\\text\{)?[A-Za-z](?:_\{?\w{1,6}\}?)?\}?(?:\([a-zA-Z]\))?\s*\\in(?![a-zA-Z])\s*")
_MATRIX = re.compile(r"\\begin\{([pbvB]?matrix|array)\}(?:\{[clr|]{1,20}\})?(.*?)\\end\{\1\}", re.DOTALL)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_OPERATIONS = frozenset({"frac", "cdot", "times", "div", "sqrt", "pm", "mp", "pi", "infty"})
_SUBSCRIPT = re.compile(r"_(?:\{[^{}]*\}|\w)")
_CALL = re.compile(r"([A-Za-z])\s*\([^()]{1,40}\)")
_TIMEY = re.compile(r"\s*(?:\\text\{)?\s*[ap]\.?\s?m\.?\s*\}?$", re.IGNORECASE)


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split at matches of ``separator`` that no bracket and no environment encloses."""
    return _split_top(text, separator)[0]


def _split_top(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """The pieces, and the separators between them."""
    inside = [False] * (len(text) + 1)
    depth = 0
    i = 0
    while i < len(text):
        if text.startswith(("\\begin", "\\lfloor", "\\lceil", "\\langle"), i):
            depth += 1
        elif text.startswith(("\\end", "\\rfloor", "\\rceil", "\\rangle"), i):
            depth = max(depth - 1, 0)
        elif text[i] in "{([":
            depth += 1
        elif text[i] in "})]":
            depth = max(depth - 1, 0)
        inside[i] = depth > 0
        i += 1
    found = [match for match in separator.finditer(text) if not inside[match.start()]]
    starts, ends = [0, *(match.end() for match in found)], [*(match.start() for match in found), len(text)]
    return [text[a:b].strip() for a, b in zip(starts, ends, strict=True)], [match.group() for match in found]


_COMMA = re.compile(",")
_SEMICOLON = re.compile(";")
_LISTING = re.compile(rf"\s*,?\s*(?:{_LIST_WORD.pattern})\s*|,")
_CUP = re.compile(r"\\cup(?![a-zA-Z])")
_COLON = re.compile(":")


def split_list(answer: str) -> list[str]:
    r"""The elements of a list without brackets: at semicolons if there are any, else at commas, "and", "or". ``a \pm b`` is two."""
    pieces = split_top(answer, _SEMICOLON)
    if len(pieces) == 1:
        pieces = split_top(answer, _LISTING)
    pieces = [strip_group(piece) for piece in pieces if piece]
    return [sign for piece in pieces for sign in _plus_minus(piece)]


_ENVIRONMENT = re.compile(r"\\begin\{(cases|aligned|align\*?|gathered|split|array)\}(?:\{[clr|]{1,20}\})?(.*)\\end\{\1\}", re.DOTALL)
_APART = re.compile(r"\\q?quad(?![a-zA-Z])|\\hspace\{[^{}]*\}|\\\\(?=\s|$|[A-Za-z](?:_\{?\w{1,6}\}?)?\s*=)|\$[\s,;]*\$|\n")
_SIDE_BY_SIDE = re.compile(r"(?<=[\d})])\s+(?=[A-Za-z](?:_\{?\w{1,6}\}?)?\s*=)")
_VALUE_OF_NAME = re.compile(r"\s*[A-Za-z](?:_\{?\w{1,6}\}?)?\s*=\s*-?(?:\d[\d.]*|\\d?frac\{?\d+\}?\{?\d+\}?)\s*")


def apart(answer: str) -> str:
    r"""Equations that only space, a line break or dollar signs separate as a list: ``a=1 \quad b=2`` -> ``a=1, b=2``.

    Each piece has to be an equation or inequality of its own, with a left side; anything else is left alone.
    """
    text = answer.strip().strip("$").strip()
    environment = _ENVIRONMENT.fullmatch(text)
    if environment:
        text = environment.group(2).replace("&", "")
        pieces = text.split("\\\\")
    else:
        pieces = _APART.split(text)
        if len(pieces) == 1:
            pieces = _SIDE_BY_SIDE.split(text)
            if not all(map(_VALUE_OF_NAME.fullmatch, pieces)):
                return answer
    pieces = [piece.strip().strip("$,;.").strip() for piece in pieces]
    pieces = [piece for piece in pieces if piece]
    if len(pieces) < 2 or not all(
        re.match(r"[^=<>]*[^\s=<>&][^=<>]*(?:=|<|>|\\(?:le|ge|leq|geq|neq)(?![a-zA-Z]))\s*\S", p) for p in pieces
    ):
        return answer
    return "; ".join(pieces) if any(";" in piece or "," in piece for piece in pieces) else ", ".join(pieces)


def _plus_minus(piece: str) -> list[str]:
    if piece.count("\\pm") + piece.count("\\mp") != 1 or re.search(r"=|\\(?:approx|le|ge|in)(?![a-zA-Z])", piece):
        if "\\pm" in piece and "=" in piece:
            head, _, tail = piece.partition("=")
            if "\\pm" not in head:
                return [f"{head}={side}" for side in _plus_minus(tail)]
        return [piece]
    if piece.startswith(("(", "[", "\\{", "\\begin")) and piece.endswith((")", "]", "}")) and "," in piece:
        return [piece]
    plus = piece.replace("\\pm", "+").replace("\\mp", "-").strip()
    minus = piece.replace("\\pm", "-").replace("\\mp", "+").strip()
    return [plus.removeprefix("+").strip(), minus.removeprefix("+").strip()]


def unwrap(answer: str) -> str:
    """Remove parentheses and braces that enclose the whole answer and hold no list: ``(x = 5)`` is ``x = 5``."""
    text = strip_group(answer.strip())
    while text.startswith("(") and text.endswith(")") and closing(text, 0) == len(text) - 1 and len(split_top(text[1:-1], _COMMA)) == 1:
        text = strip_group(text[1:-1].strip())
    return text


@dataclass(frozen=True, slots=True)
class Bracketed:
    r"""``(a, b)``, ``[a, b)`` or ``\{a, b\}``: brackets and elements."""

    open: str
    close: str
    items: tuple[str, ...]


def bracketed(answer: str) -> Bracketed | None:
    """Read a tuple, interval, vector or set with explicit brackets; None for anything else, a single number in parentheses included."""
    text = answer.strip()
    if text.startswith("\\langle") and text.endswith("\\rangle"):
        return Bracketed("(", ")", tuple(split_top(text[7:-7], _COMMA)))
    if text.startswith("\\{") and text.endswith("\\}"):
        if closing(text, 0) != len(text) - 1:
            return None
        inner = text[2:-2].strip()
        return Bracketed("\\{", "\\}", tuple(split_list(inner)) if inner else ())
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and closing(text, 0) == len(text) - 1:
        items = split_top(text[1:-1], _COMMA)
        return Bracketed(text[0], text[-1], tuple(items)) if len(items) > 1 else None
    matrix = _MATRIX.fullmatch(text)
    if matrix and matrix.group(1) in ("pmatrix", "bmatrix", "array") and "&" not in text:  # a column vector
        rows = [row.strip() for row in matrix.group(2).split("\\\\") if row.strip()]
        return Bracketed("(", ")", tuple(rows)) if len(rows) > 1 else None
    return None


def union(answer: str) -> list[str]:
    r"""The sets of a union ``A \cup B``."""
    return split_top(answer, _CUP)


def ratio(answer: str) -> list[str]:
    r"""The terms of a ratio or the fields of a time of day, ``7:32`` or ``12:30 \text{ PM}``."""
    return split_top(_TIMEY.sub("", answer) if ":" in answer else answer, _COLON)


def is_relation(answer: str) -> bool:
    r"""True for an inequality or a membership at the top level."""
    return len(split_top(answer, _RELATION)) > 1


def membership(answer: str) -> str:
    r"""``x \in`` of ``x \in [0, 1]`` without spaces, empty where nothing is said to be a member."""
    found = _MEMBER_OF.match(answer)
    return re.sub(r"\s|\\in", "", found.group()) if found else ""


def without_membership(answer: str) -> str:
    r"""``x \in [0, 1]`` -> ``[0, 1]``."""
    return _MEMBER_OF.sub("", answer)


@dataclass(frozen=True, slots=True)
class Chain:
    r"""``a = b \approx c``: the members, and for each step whether it was an approximation."""

    members: tuple[str, ...]
    approximate: tuple[bool, ...]


def chain(answer: str) -> Chain:
    """Read an equation chain; one member if there is no equals sign at the top level."""
    members, signs = _split_top(_LEADING_EQUALS.sub("", answer), _EQUALS)
    return Chain(tuple(map(strip_group, members)), tuple(sign != "=" for sign in signs))


def is_name(member: str) -> bool:
    r"""True for what an answer is named by: ``x``, ``x_1``, ``f(2)``, ``(p, q)``, ``\angle ABC``, ``\frac{NO}{BO}``; no own digits."""
    text = _CALL.sub(r"\1", _SUBSCRIPT.sub("", member))
    text = _COMMAND.sub(lambda m: " " if m.group()[1:] in _OPERATIONS else "x", text)
    return bool(re.search(r"[A-Za-z]", text)) and not re.search(r"[\d^]", text)


def is_plain_name(member: str) -> bool:
    """True for a name without operations: ``x_1``, ``f(2)``, not ``x+y``."""
    return is_name(member) and not re.search(r"[-+*/]|\\(?:frac|cdot|times|div|sqrt|pm|mp)(?![a-zA-Z])", member)


def base_name(member: str) -> str:
    """A name without subscripts and spaces: roots ``x_1``, ``x_2`` are values of one unknown."""
    return re.sub(r"[\s{}]", "", _SUBSCRIPT.sub("", member))
