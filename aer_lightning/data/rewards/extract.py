r"""Which words of a completion are its answer: the last box, the stated final answer, or the last number. Bounded regular expressions.

What comes back is a list of *parts*: several only if the completion itself gives several answers side by side
(``\boxed{2} and \boxed{3}``, ``42 or 43``), which is right for a gold answer with as many parts and a hedge otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from aer_lightning.data.rewards.echo import without_echo

ExtractMode = Literal["auto", "boxed", "final_answer", "last_number"]
EXTRACT_MODES: tuple[str, ...] = get_args(ExtractMode)


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
_UNBRACED = re.compile(r"[-+]?\d[\d.,/]*\d|[-+]?\d|\\[a-zA-Z]+(?:\{[^{}]{0,100}\}){0,2}|[A-Za-z]")
_NAME = re.compile(r"[\s$\\(]*[A-Za-z](?:_\{?\w{1,8}\}?)?\s*=[\s$]*$")
_CONNECTIVE = re.compile(r"(?:,|;|&|\band|\bor)[\s\\${}()\[\],]*$")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n\s*\n")
_TEXT = re.compile(r"\\(?:text|textbf|mbox|mathrm)\s*\{([^{}]{0,60})\}")
_OR_AFTER = re.compile(r"[\s$}]{0,4}(?:\\\)|\\\])?[\s$,]{0,4}(?:or\b|\\text\s*\{\s*or\s*\})\s*")

# A run of characters that can be a number or an arithmetic expression written in plain text.
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?: \d{3})+(?![\d.,])|\d+(?:\.\d+)?|\.\d+"
_LATEX_ATOM = r"[-+]?\\(?:[dtc]?frac\s?\{[^{}]{1,60}\}\s?\{[^{}]{1,60}\}|sqrt\s?\{[^{}]{1,60}\})"
_PLAIN = re.compile(
    rf"{_LATEX_ATOM}|(?<![A-Za-z\d_.])(?<![\^_]\{{)(?:[-+](?=[\d.(]))?(?:{_NUMBER})"
    rf"(?:\s?[-+*/^]\s?[-+]?\(?(?:{_NUMBER})\)?){{0,20}}(?:!(?=\s?[-+*/^=,)]))?(?:\s?(?:\\?%|percent\b|pct\b))?"
)
_DECIMAL_COMMA = re.compile(r"(?<![A-Za-z\d_.,])(-?\d+),(\d{1,2})(?![\d,])")
_SPANS = re.compile(
    r"\$\$(?P<a>[^$]{1,2000})\$\$|\\\[(?P<b>.{1,2000}?)\\\]|\\\((?P<c>.{1,1000}?)\\\)|(?<!\\)\$(?P<d>(?:[^$\n\\]|\\.){1,1000}?)(?<!\\)\$",
    re.DOTALL,
)
_PERCENT_AFTER = re.compile(r"\s?(?:\\?%|percent(?:age)?\b|pct\b)")
_MARKER = re.compile(r"####|(?:final\s+|correct\s+)?answer\**\s*(?:is|are|[:=]|(?=\$|\\\(|\\\[))|(?:^|[\n?.])\s*A\s*:(?!\w)", re.IGNORECASE)
_FINAL = re.compile(r"final\s+answer\**\s*(?:is|:)", re.IGNORECASE)
_LEAD = re.compile(r"(?:[\s:=*_`\"']|(?:therefore|thus|is|are|simply|exactly|equal to)\b)*", re.IGNORECASE)
_BOILERPLATE = re.compile(r"\.?\s*I hope (?:it|this) is correct.*", re.DOTALL | re.IGNORECASE)
_LONG_ECHO, _SHORT_ECHO = 8, 3  # words, numbers and signs in a row
# What is asked is no answer: a question, or an order that names no result.
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_SURE = re.compile(r",?\s+(?:right|correct|ok|okay|yes|no|see)\s*\?", re.IGNORECASE)
_ORDER = re.compile(
    r"\W*(?:please\s+|now\s+)?(?:find|compute|calculate|evaluate|solve|simplify|determine|"
    r"add|subtract|multiply|divide|convert|round|work out)\b",
    re.IGNORECASE,
)
_RESULT = re.compile(
    r"[=:\u2192]|\\(?:to|approx)\b|\b(?:is|are|gets?|gives?|equals?|makes?|yields?|obtain|result|have|so)\b", re.IGNORECASE
)
_LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|now|well|okay|ok|yes|sure|finally|and|ah|oh|great|right|alright|we (?:get|have))\b"
    r"[\s,:.!]*|=\s*)+(?=\S)",
    re.IGNORECASE,
)
_EXCLAMATION = re.compile(r"(?<=[\d*)$])!+(?=[*\"')\s]*$|\s+[A-Z])", re.MULTILINE)
_PROSE = re.compile(r"[A-Za-z]'[a-z]|\b(?:is|are|equals?|gives?|makes?)\b|:\s|\\to\b", re.IGNORECASE)
_NAMED_FIRST = re.compile(r"\W{0,4}(\S{1,40}(?:\s+\S{1,20})?)\s+(?:is|are)\s+the\b", re.IGNORECASE)  # 14 is the sum of 8 and 6
_ASIDE = re.compile(r"(\d[^.!?\n()]{0,40})\([^()=]{0,60}\d\s*[-+*/]\s*\d[^()=]{0,60}\)")  # 14 apples (8 + 6)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_MATH_WORD_LIST = "and or sin cos tan cot sec csc log ln exp sqrt pi frac max min gcd lcm mod inf percent pct"
_MATH_WORDS = frozenset(_MATH_WORD_LIST.split())


def extract(region: str, mode: str = "auto", prompt: str = "") -> Extracted | None:
    """The answer in ``region`` (see :func:`~aer_lightning.data.rewards.text.answer_region`), or None.

    ``boxed``: the last balanced box, with the boxes joined to it by a connective. ``final_answer``: what follows the last "answer is",
    "Answer:", "####" or "A:". ``last_number``: the last number. ``auto``: the first of these that finds something, where the third
    also takes the last formula, and a text that is nothing but an answer is taken whole.

    What is repeated of ``prompt`` is skipped: long passages of it everywhere (its example of a box, its few-shot answers), and shorter ones
    where only the last number is looked for.
    """
    if prompt:
        region = without_echo(region, prompt, _LONG_ECHO)
    if mode == "boxed":
        return last_boxes(region)
    if mode == "auto" and (found := _revised(region) or last_boxes(region)):
        return found
    told = _told(region)
    if mode == "final_answer":
        return _final_answer(told)
    own = without_echo(told, prompt, _SHORT_ECHO) if prompt else told
    if mode == "last_number":
        return _last_run(own, spans=False)
    return _final_answer(told) or _whole(told) or _last_run(own)


def _told(region: str) -> str:
    """``region`` without its questions and orders, whose numbers are those of the problem. Line breaks stay."""
    if "?" not in region and not _ORDER.search(region):
        return region
    kept, at = [], 0
    for boundary in (*_SENTENCES.finditer(region), None):
        sentence, end = region[at : boundary.start() if boundary else None], boundary.end() if boundary else len(region)
        sentence = _SURE.sub(".", sentence)
        asked = sentence.rstrip(" *_\"')").endswith("?") or (_ORDER.match(sentence) and not _RESULT.search(sentence))
        kept.append(("\n" if "\n" in region[at:end] else " ") if asked else sentence + (boundary.group() if boundary else ""))
        at = end
    return "".join(kept)


def _revised(region: str) -> Extracted | None:
    """A number or formula that is called the final answer after the last box: the completion went on and concluded."""
    last_box = max(region.rfind("\\boxed"), region.rfind("\\fbox"))
    marker = next(iter(reversed(list(_FINAL.finditer(region, last_box)))), None) if last_box >= 0 else None
    found = _stated_after(region, marker.end()) if marker else None
    return found if found and any(any(c.isdigit() or c == "\\" for c in part) for part in found.parts) else None


# ---- boxes


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
        if not _joined(text[box[1] : run[0][0]]):
            break
        run.insert(0, box)
    parts = [content.strip() for _, _, content in run]
    other = _OR_AFTER.match(text, run[-1][1])
    if other:
        alternative = _SPANS.match(text, other.end()) or _PLAIN.match(text, other.end())
        if alternative:
            parts.append(_content(alternative))
    if not any(parts):
        return None
    return Extracted(tuple(dict.fromkeys(parts)), boxed=True)


def _joined(between: str) -> bool:
    """True if the text between two answers puts them side by side: a connective at its end, or nothing but signs."""
    if len(between) > 60:
        return False
    plain = _TEXT.sub(r"\1", between)
    plain = _NAME.sub(" ", plain).replace("\\)", " ").replace("\\(", " ").replace("\\]", " ").replace("\\[", " ")
    plain = re.sub(r"\\(?:quad|qquad|[,;: ])", " ", plain)
    if _SENTENCE_END.search(plain):
        # Two boxes with nothing but punctuation between them are two answers even across sentences.
        return not re.search(r"\w", plain) and len(plain) <= 12
    if not re.search(r"[A-Za-z\d]", plain):
        return len(plain) <= 20
    return bool(_CONNECTIVE.search(plain)) and len(plain) <= 40


# ---- stated answers


def _content(match: re.Match[str]) -> str:
    """Content of a formula or the text of a plain number."""
    groups = match.groupdict()
    return next((value for value in groups.values() if value is not None), match.group()).strip()


def _is_formula(content: str) -> bool:
    """False for text between two currency signs: "$3 and earns $10"."""
    words = [w for w in _WORD.findall(re.sub(r"\\[a-zA-Z]+(?:\{[^{}]{0,60}\})?", " ", content)) if w.lower() not in _MATH_WORDS]
    return len(words) < 2 and not re.match(r"\s*(?:and|or)\b|.*\b(?:and|or)\s*$", content, re.DOTALL)


def _tokens(text: str, spans: bool) -> list[tuple[int, int, str]]:
    """Every formula and every plain number, in order, without overlaps."""
    tokens: list[tuple[int, int, str]] = []
    taken = 0
    formulas = [m for m in _SPANS.finditer(text) if _is_formula(_content(m))] if spans else []
    for match in (*formulas, None):
        stop = match.start() if match else len(text)
        gap = _DECIMAL_COMMA.sub(r"\1.\2", text[taken:stop])
        tokens += [(taken + m.start(), taken + m.end(), _balanced(m.group().strip())) for m in _PLAIN.finditer(gap)]
        if match:
            percent = _PERCENT_AFTER.match(text, match.end())
            end = percent.end() if percent else match.end()
            tokens.append((match.start(), end, _content(match) + ("%" if percent else "")))
            taken = end
    return tokens


def _balanced(token: str) -> str:
    """Without the closing bracket of an opening one that stands before the token."""
    return token[:-1] if token.endswith(")") and token.count(")") > token.count("(") else token


def _run_of(text: str, tokens: list[tuple[int, int, str]], last: bool) -> Extracted | None:
    """The last (or first) token with those that stand side by side with it."""
    if not tokens:
        return None
    run = [tokens[-1]] if last else [tokens[0]]
    rest = reversed(tokens[:-1]) if last else iter(tokens[1:])
    for token in rest:
        between = text[token[1] : run[0][0]] if last else text[run[-1][1] : token[0]]
        if not re.search(r"[\w,;&]", between) or not _joined(between):
            break
        if last:
            run.insert(0, token)
        else:
            run.append(token)
    return Extracted(tuple(dict.fromkeys(token[2] for token in run)))


def _last_run(region: str, spans: bool = True) -> Extracted | None:
    """The last number, or with ``spans`` the last formula or number. Only the end of a long text is searched."""
    tail = _ASIDE.sub(r"\1", region[-4_000:])
    named = _NAMED_FIRST.match(_SENTENCES.split(tail.strip())[-1])
    if named and len(tokens := _tokens(named.group(1), spans)) == 1:
        return Extracted((tokens[0][2],))
    return _run_of(tail, _tokens(tail, spans), last=True)


def _whole(text: str) -> Extracted | None:
    """The text itself if it is one line of mathematics without prose."""
    line = text.strip().strip("*`").strip()
    if lead := _LEAD_IN.match(line):
        line = line[lead.end() :]
    if _PROSE.search(line):
        return None
    if re.search(r"\d.*=", line):
        line = _EXCLAMATION.sub("", line)
    span = _SPANS.fullmatch(line)
    if span and _is_formula(_content(span)):
        return Extracted((_content(span),))
    if not line or len(line) > 300 or "\n" in line or len(re.findall(r"(?<!\\)\$", line)) > 0:
        return None
    bare = re.sub(r"\\[a-zA-Z]+(?:\s*\{[A-Za-z\s.]{0,60}\})?", " ", line)
    if any(word.lower() not in _MATH_WORDS and len(word) > 3 for word in _WORD.findall(bare)) and re.search(r"[\s\d]", line):
        return None
    if re.search(r"[A-Za-z]\d|\d[A-Za-z]{2,}|!!|\?", line) and not re.search(r"[\\+*/^=-]", line):
        return None
    words = len(_WORD.findall(bare))
    if words > 2 or (words == 2 and not re.search(r"[\d=+^\\(\[]", line)):
        return None
    line = _DECIMAL_COMMA.sub(r"\1.\2", line) if _DECIMAL_COMMA.fullmatch(line) else line
    return Extracted((line,))


def _final_answer(region: str) -> Extracted | None:
    """What follows the last marker of a final answer that has something after it."""
    for marker in reversed(list(_MARKER.finditer(region))[-8:]):
        if found := _stated_after(region, marker.end()):
            return found
    return None


def _stated_after(region: str, at: int) -> Extracted | None:
    tail = _BOILERPLATE.sub("", region[at : at + 2_000])
    start = _LEAD.match(tail)
    return _stated(tail[start.end() if start else 0 :])


def _stated(tail: str) -> Extracted | None:
    """The answer at the head of ``tail``, or the last one in its first sentence."""
    if box := last_boxes(tail):
        return box
    first = _EXCLAMATION.sub(".", tail.lstrip().split("\n", 1)[0])
    head = _SPANS.match(tail)
    if head and _is_formula(_content(head)):
        return _run_of(tail, _tokens(tail, spans=True), last=False)
    sentence = re.split(r"(?<=[^\d\s])\.(?:\s|$)|(?<=\d)\.(?:\s|$)|[!?]\s", first, maxsplit=1)[0].strip().strip('*`"').strip()
    if not sentence:
        return None
    if whole := _whole(sentence):
        return whole
    tokens = _tokens(sentence, spans=True)
    if tokens and not _WORD.search(sentence[: tokens[0][0]]):
        return _run_of(sentence, tokens, last=False)
    if found := _run_of(sentence, tokens, last=True):
        return found
    # A word: the name of a person, a day, a colour. Only where the whole sentence is no more than that.
    words = sentence.split()
    return Extracted((sentence,)) if 0 < len(words) <= 4 and re.fullmatch(r"[\w\s'().-]+", sentence) else None
