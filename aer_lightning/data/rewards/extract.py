r"""Which words of a completion are its answer: the last box, the stated final answer, or the last number. Bounded regular expressions.

What comes back is a list of *parts*: several only if the completion itself gives several answers side by side
(``\boxed{2} and \boxed{3}``, ``42 or 43``), which is right for a gold answer with as many parts and a hedge otherwise.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from aer_lightning.data.rewards.boxes import PLAIN, SPANS, Extracted, before_open_box, content_of, joined, last_boxes, without_examples
from aer_lightning.data.rewards.echo import without_echo
from aer_lightning.data.rewards.languages import ANSWER, IS
from aer_lightning.data.rewards.normalize import normalize
from aer_lightning.data.rewards.numbers import decimal_comma, parse_number
from aer_lightning.data.rewards.statements import OPERATION, SENTENCES, denied, told

ExtractMode = Literal["auto", "boxed", "final_answer", "last_number"]
EXTRACT_MODES: tuple[str, ...] = get_args(ExtractMode)


_LONG_ECHO, _SHORT_ECHO = 8, 3  # words, numbers and signs in a row

_STATED_CHARS = 20_000  # an answer that is in no box is looked for in so many characters, from the end
_PERCENT_AFTER = re.compile(r"\s?(?:\\?%|percent(?:age)?\b|pct\b)")
_MARKER = re.compile(
    r"####|(?:final\s+|correct\s+)?answer\**\s*(?:is|are|[:=]|(?=\$|\\\(|\\\[))|(?:^|[\n?.])\s{0,20}A\s{0,4}:(?!\w)|\bans\s*[.:=]|"
    rf"(?:{ANSWER})\**\s*(?:{IS}|[:=—–-])\**",
    re.IGNORECASE,
)
_FINAL = re.compile(r"final\s+answer\**\s*(?:is|:)", re.IGNORECASE)
_LEAD = re.compile(r"(?:[\s:=*_`\"']|(?:therefore|thus|is|are|simply|exactly|equal to)\b)*", re.IGNORECASE)
_BOILERPLATE = re.compile(r"\.?\s*I hope (?:it|this) is correct.*", re.DOTALL | re.IGNORECASE)
_LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|now|well|okay|ok|yes|sure|finally|and|ah|oh|great|right|alright|we (?:get|have))\b"
    r"[\s,:.!]*|=\s*)+(?=\S)",
    re.IGNORECASE,
)
_EXCLAMATION = re.compile(r"(?<=[\d*)$])!+(?=[*\"')\s]*$|\s+[A-Z])", re.MULTILINE)
_PROSE = re.compile(r"[A-Za-z]'[a-z]|\b(?:is|are|equals?|gives?|makes?|but|since|because|where|hence|so)\b|:\s|\\to\b", re.IGNORECASE)
_FOREIGN = re.compile(r"(?![\x00-\x7f])[^\W\d_]")
_STATES = re.compile(r"=|\b(?:is|are|be|was|were|equals?|has|have|gets?|makes?)\b|\\approx\b", re.IGNORECASE)
_MONEY_BEFORE, _MONEY_AFTER = re.compile(r"[$€£¥₹]\s?$"), re.compile(r"\s?\\?[$€£¥₹](?!\d)")
_NAMED_FIRST = re.compile(r"\W{0,4}(\S{1,40}(?:\s+\S{1,20})?)\s+(?:is|are)\s+the\b", re.IGNORECASE)  # 14 is the sum of 8 and 6
_ASIDE = re.compile(r"(\d[^.!?\n()]{0,40})\([^()=]{0,60}\d\s*[-+*/]\s*\d[^()=]{0,60}\)")  # 14 apples (8 + 6)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}|(?![\x00-\x7f])[^\W\d_]")
_MATH_WORD_LIST = "and or sin cos tan cot sec csc log ln exp sqrt pi frac max min gcd lcm mod inf percent pct"
_MATH_WORDS = frozenset(_MATH_WORD_LIST.split())


def extract(region: str, mode: str = "auto", prompt: str = "") -> Extracted | None:
    """The answer in ``region`` (see :func:`~aer_lightning.data.rewards.text.answer_region`), or None.

    ``boxed``: the last balanced box, with the boxes joined to it by a connective. ``final_answer``: what follows the last "answer is",
    "Answer:", "####" or "A:". ``last_number``: the last number, if no expression comes after it. ``auto``: the first of these that finds
    something, where the third also takes the last formula, and a text that is nothing but an answer is taken whole.

    What is repeated of ``prompt`` is skipped: long passages of it everywhere (its example of a box, its few-shot answers), and shorter ones
    where only the last number is looked for.
    """
    if prompt:
        region = without_echo(region, prompt, _LONG_ECHO)
    region = without_examples(region)
    if mode == "boxed":
        return last_boxes(region)
    if mode == "auto" and (found := _revised(region) or last_boxes(region)):
        return found
    region = told(before_open_box(region)[-_STATED_CHARS:])
    if mode == "final_answer":
        return _final_answer(region)
    own = without_echo(region, prompt, _SHORT_ECHO) if prompt else region
    if mode == "last_number":
        found = _last_run(own, spans=False)
        return found if found and all(parse_number(decimal_comma(normalize(part))) for part in found.parts) else None
    return _final_answer(region) or _whole(region) or _last_run(own)


def _revised(region: str) -> Extracted | None:
    """A number or formula that is called the final answer after the last box: the completion went on and concluded."""
    last_box = max(region.rfind("\\boxed"), region.rfind("\\fbox"))
    marker = next(iter(reversed(list(_FINAL.finditer(region, last_box)))), None) if last_box >= 0 else None
    found = _stated_after(region, marker.end()) if marker else None
    return found if found and any(any(c.isdigit() or c == "\\" for c in part) for part in found.parts) else None


# ---- stated answers


def _is_formula(content: str) -> bool:
    """False for text between two currency signs: "$3 and earns $10"."""
    words = [w for w in _WORD.findall(re.sub(r"\\[a-zA-Z]+(?:\{[^{}]{0,60}\})?", " ", content)) if w.lower() not in _MATH_WORDS]
    return len(words) < 2 and not re.match(r"\s*(?:and|or)\b|.*\b(?:and|or)\s*$", content, re.DOTALL)


def _tokens(text: str, spans: bool) -> list[tuple[int, int, str]]:
    """Every formula and every plain number, in order, without overlaps."""
    tokens: list[tuple[int, int, str]] = []
    taken = 0
    formulas = [m for m in SPANS.finditer(text) if _is_formula(content_of(m))] if spans else []
    for match in (*formulas, None):
        stop = match.start() if match else len(text)
        gap = text[taken:stop]
        tokens += [(taken + m.start(), taken + m.end(), _balanced(m.group().strip())) for m in PLAIN.finditer(gap)]
        if match:
            percent = _PERCENT_AFTER.match(text, match.end())
            end = percent.end() if percent else match.end()
            tokens.append((match.start(), end, content_of(match) + ("%" if percent else "")))
            taken = end
    return tokens


def _balanced(token: str) -> str:
    """Without the closing bracket of an opening one that stands before the token."""
    return token[:-1] if token.endswith(")") and token.count(")") > token.count("(") else token


def _run_of(text: str, tokens: list[tuple[int, int, str]], last: bool) -> Extracted | None:
    """The last (or first) token with those that stand side by side with it."""
    tokens = [token for token in tokens if not denied(text, token[0], token[1])]
    if not tokens:
        return None
    if last and len(tokens) > 1 and OPERATION.fullmatch(text, tokens[-2][1], tokens[-1][0]):
        return None  # 10 minus 5 states nothing
    run = [tokens[-1]] if last else [tokens[0]]
    rest = reversed(tokens[:-1]) if last else iter(tokens[1:])
    for token in rest:
        between = text[token[1] : run[0][0]] if last else text[run[-1][1] : token[0]]
        if not re.search(r"[\w,;&]", between) or not joined(between):
            break
        if last:
            run.insert(0, token)
        else:
            run.append(token)
    return Extracted(tuple(dict.fromkeys(token[2] for token in run)))


def _last_run(region: str, spans: bool = True) -> Extracted | None:
    """The last number, or with ``spans`` the last formula or number. Only the end of a long text is searched."""
    tail = _ASIDE.sub(r"\1", region[-4_000:])
    named = _NAMED_FIRST.match(SENTENCES.split(tail.strip())[-1])
    if named and len(tokens := _tokens(named.group(1), spans)) == 1:
        return Extracted((tokens[0][2],))
    return _run_of(tail, _tokens(tail, spans), last=True)


def _whole(text: str) -> Extracted | None:
    """The text itself if it is one line of mathematics without prose."""
    line = text.strip().strip("*`").strip()
    if lead := _LEAD_IN.match(line):
        line = line[lead.end() :]
    if _PROSE.search(line) or any(denied(line, start, end) for start, end, _ in _tokens(line, spans=True)):
        return None
    if _FOREIGN.search(line) and (any(map(str.isdigit, line)) or len(line) > 30):
        return None
    if re.search(r"\d.*=", line):
        line = _EXCLAMATION.sub("", line)
    span = SPANS.fullmatch(line)
    if span and _is_formula(content_of(span)):
        return Extracted((content_of(span),))
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
    return Extracted((line,))


def _final_answer(region: str) -> Extracted | None:
    """What follows the last marker of a final answer that has something after it."""
    for marker in reversed(list(_MARKER.finditer(region))[-8:]):
        if not denied(region, marker.end(), marker.end()) and (found := _stated_after(region, marker.end())):
            return found
    return None


def _stated_after(region: str, at: int) -> Extracted | None:
    tail = _BOILERPLATE.sub("", region[at : at + 2_000])
    start = _LEAD.match(tail)
    return _stated(tail[start.end() if start else 0 :])


def _claimed(sentence: str, tokens: list[tuple[int, int, str]]) -> Extracted | None:
    """What a sentence states: its only sum of money, else the first token after its last verb, else the last token."""
    money = [t for t in tokens if _MONEY_BEFORE.search(sentence[: t[0]]) or _MONEY_AFTER.match(sentence[t[1] :])]
    if len(money) == 1:
        return _run_of(sentence, money, last=True)
    for verb in reversed(list(_STATES.finditer(sentence))):
        if found := _run_of(sentence, [t for t in tokens if t[0] >= verb.end()], last=False):
            return found
    return _run_of(sentence, tokens, last=True)


def _stated(tail: str) -> Extracted | None:
    """The answer at the head of ``tail``, or the last one in its first sentence."""
    if box := last_boxes(tail):
        return box
    first = _EXCLAMATION.sub(".", tail.lstrip().split("\n", 1)[0])
    head = SPANS.match(tail)
    if head and _is_formula(content_of(head)):
        return _run_of(tail, _tokens(tail, spans=True), last=False)
    sentence = re.split(r"(?<=[^\d\s])\.(?:\s|$)|(?<=\d)\.(?:\s|$)|[!?]\s", first, maxsplit=1)[0].strip().strip('*`"').strip()
    if not sentence:
        return None
    if whole := _whole(sentence):
        return whole
    tokens = _tokens(sentence, spans=True)
    if tokens and not _WORD.search(sentence[: tokens[0][0]]):
        return _run_of(sentence, tokens, last=False)
    if found := _claimed(sentence, tokens):
        return found
    # A word: the name of a person, a day, a colour. Only where the whole sentence is no more than that.
    words = sentence.split()
    return Extracted((sentence,)) if 0 < len(words) <= 4 and re.fullmatch(r"[\w\s'().-]+", sentence) else None
