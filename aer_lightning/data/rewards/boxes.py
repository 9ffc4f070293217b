r"""Boxes, formulas and plain numbers of a text, and which of them stand side by side. Bounded regular expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aer_lightning.data.rewards.languages import JOINS, JOINS_ALONE
from aer_lightning.data.rewards.statements import is_example


@dataclass(frozen=True, slots=True)
class Extracted:
    """The answer as it was written.

    Attributes:
        parts: one string an answer, in order.
        boxed: True if it was in a box: all of its content is then a claim.
    """

    parts: tuple[str, ...]
    boxed: bool = False

    @property
    def text(self) -> str:
        """All parts in one line."""
        return ", ".join(self.parts)


_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])\s*")
_MOST_BOXES = 64
_UNBRACED = re.compile(r"[-+]?\d[\d.,/]*\d|[-+]?\d|\\[a-zA-Z]+(?:\{[^{}]{0,100}\}){0,2}|[A-Za-z]")
_NAME = re.compile(r"[\s$\\(]*[A-Za-z](?:_\{?\w{1,8}\}?)?\s*=[\s$]*$")
_CONNECTIVE = re.compile(rf"(?:,|;|&|{JOINS})[\s\\${{}}()\[\],]*$", re.IGNORECASE)
_ONLY_CONNECTIVE = re.compile(rf"[\s\\${{}}()\[\],]*(?:{JOINS_ALONE})[\s\\${{}}()\[\],]*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n\s*\n")
_TEXT = re.compile(r"\\(?:text|textbf|mbox|mathrm)\s*\{([^{}]{0,60})\}")
_OR_AFTER = re.compile(r"[\s$}]{0,4}(?:\\\)|\\\])?[\s$,]{0,4}(?:or\b|\\text\s*\{\s*or\s*\})\s*")

# A run of characters that can be a number or an arithmetic expression written in plain text.
_NUMBER = (
    r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+,\d{1,2}(?![\d,])|"
    r"\d{1,3}(?: \d{3})+(?![\d.,])|\d+(?:\.\d+)?|\.\d+"
)
_LATEX_ATOM = r"[-+]?\\(?:[dtc]?frac\s?\{[^{}]{1,60}\}\s?\{[^{}]{1,60}\}|sqrt\s?\{[^{}]{1,60}\})"
PLAIN = re.compile(
    rf"{_LATEX_ATOM}|(?<![A-Za-z\d_.])(?<![\^_]\{{)(?:[-+](?=[\d.(]))?(?:{_NUMBER})"
    rf"(?:\s?[-+*/^]\s?[-+]?\(?(?:{_NUMBER})\)?){{0,20}}(?:!(?=\s?[-+*/^=,)]))?(?:\s?(?:\\?%|percent\b|pct\b))?"
)
SPANS = re.compile(
    r"\$\$(?P<a>[^$]{1,2000})\$\$|\\\[(?P<b>.{1,2000}?)\\\]|\\\((?P<c>.{1,1000}?)\\\)|(?<!\\)\$(?P<d>(?:[^$\n\\]|\\.){1,1000}?)(?<!\\)\$",
    re.DOTALL,
)


def content_of(match: re.Match[str]) -> str:
    """Content of a formula or the text of a plain number."""
    groups = match.groupdict()
    return next((value for value in groups.values() if value is not None), match.group()).strip()


def _brace_pairs(text: str) -> dict[int, int]:
    """Index of the closing brace for every balanced opening one; escaped braces do not count. One pass."""
    pairs: dict[int, int] = {}
    stack: list[int] = []
    skip = False
    for i, char in enumerate(text):
        if skip:
            skip = False
        elif char == "\\":
            skip = True
        elif char == "{":
            stack.append(i)
        elif char == "}" and stack:
            pairs[stack.pop()] = i
    return pairs


def without_examples(region: str) -> str:
    """``region`` without boxes that only show how an answer is to be written; of a great many only the last are looked at."""
    found = [match for match in list(_BOX.finditer(region))[-_MOST_BOXES:] if is_example(region, match.start())]
    if not found:
        return region
    pairs = _brace_pairs(region)
    kept, at = [], 0
    for match in found:
        token = _UNBRACED.match(region, match.end())
        end = pairs.get(match.end(), token.end() - 1 if token else match.end() - 1) + 1
        if match.start() >= at:
            kept.append(region[at : match.start()])
            at = end
    return " ".join([*kept, region[at:]])


def before_open_box(region: str) -> str:
    """``region`` up to its first box that is never closed: what follows was to be an answer, and is none."""
    pairs = _brace_pairs(region)
    unfinished = (m.start() for m in _BOX.finditer(region) if region[m.end() : m.end() + 1] == "{" and m.end() not in pairs)
    return region[: next(unfinished, None)]


def last_boxes(text: str) -> Extracted | None:
    r"""The last balanced ``\boxed{}`` or ``\fbox{}`` and the boxes joined to it. An alternative written after it ("or 43") counts too."""
    found = list(_BOX.finditer(text))
    if not found:
        return None
    pairs = _brace_pairs(text)
    boxes: list[tuple[int, int, str]] = []  # start, end, content; outermost boxes only
    for match in found:
        if boxes and match.start() < boxes[-1][1]:
            continue
        at = match.end()
        if at < len(text) and text[at] == "{":
            if at in pairs:
                boxes.append((match.start(), pairs[at] + 1, text[at + 1 : pairs[at]]))
        elif token := _UNBRACED.match(text, at):
            boxes.append((match.start(), token.end(), token.group()))
    if not boxes:
        return None
    run = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        if not joined(text[box[1] : run[0][0]]):
            break
        run.insert(0, box)
    parts = [content.strip() for _, _, content in run]
    other = _OR_AFTER.match(text, run[-1][1])
    if other:
        alternative = SPANS.match(text, other.end()) or PLAIN.match(text, other.end())
        if alternative:
            parts.append(content_of(alternative))
    if not any(parts):
        return None
    return Extracted(tuple(dict.fromkeys(parts)), boxed=True)


def joined(between: str) -> bool:
    """True if the text between two answers puts them side by side: a connective at its end, or nothing but signs."""
    if len(between) > 60:
        return False
    plain = _TEXT.sub(r"\1", between)
    plain = _NAME.sub(" ", plain).replace("\\)", " ").replace("\\(", " ").replace("\\]", " ").replace("\\[", " ")
    plain = re.sub(r"\\(?:quad|qquad|[,;: ])", " ", plain)
    if _SENTENCE_END.search(plain):
        # Two boxes with nothing but punctuation between them are two answers even across sentences.
        return not re.search(r"\w", plain) and len(plain) <= 12
    if not re.search(r"[^\W_]", plain):
        return len(plain) <= 20
    return len(plain) <= 40 and bool(_CONNECTIVE.search(plain) or _ONLY_CONNECTIVE.fullmatch(plain))
