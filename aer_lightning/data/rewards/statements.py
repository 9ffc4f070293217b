r"""What of a completion states something: without questions, orders, refusals and examples, whose numbers answer nothing.

All of it is pattern matching on sentences of the answer region. It errs on the side of not paying, but never touches a box that a
completion fills with its own answer.
"""

from __future__ import annotations

import re

from aer_lightning.data.rewards.languages import REFUSAL

SENTENCES = re.compile(r"(?<=[.!?])\s+|(?<=\?)(?=[^\x00-\x7f])|\n+")
_SURE = re.compile(r",?\s{1,4}(?:right|correct|ok|okay|yes|no|see)\s*\?", re.IGNORECASE)
_ORDER = re.compile(
    r"\W{0,8}(?:please\s+|now\s+)?(?:find|compute|calculate|evaluate|solve|simplify|determine|"
    r"add|subtract|multiply|divide|convert|round|work out)\b",
    re.IGNORECASE,
)
_RESULT = re.compile(r"[=:]|\\(?:to|approx)\b|\b(?:is|are|gets?|gives?|equals?|makes?|yields?|obtain|result|have|so)\b", re.IGNORECASE)
_REFUSAL = re.compile(
    rf"{REFUSAL}|\b(?:can(?:no|')?t|can not|could not|couldn't|unable to|won't|will not)\s+(?:be\s+)?"
    r"(?:answer|solve|comput|calculat|determin|help|provid|sa(?:y|id)|giv|tell|assist|complet|know|found|find|do (?:that|this))|"
    r"\b(?:I'm|I am|we are) (?:sorry|unable|not able)\b|\bas an AI\b",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(r"=|\b(?:so|thus|therefore|hence|but)\b", re.IGNORECASE)
# What stands before or after a number that is not claimed: "less than 42", "is not 42", "42 is wrong".
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:(?:less|more|greater|fewer|larger|smaller|higher|lower|bigger|other|rather|older|younger)\s+than|"
    r"at\s+(?:least|most)|up\s+to|"
    r"between|between\s+\S+\s+and|not|never|neither|nor|cannot|unknown|undefined|wrong|incorrect|unlike|except|instead\s+of|"
    r"if|whether|suppose|assume|assuming|unless)|n't)"
    r"(?:\s+(?:be|exactly|simply|just|the|equal|equals|to|answer|is))*[\s:($*\\]*$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"[\s$*)\\]*(?:(?:is|was|would be|seems|cannot be|can't be|is not|isn't)\s+)(?:the\s+)?"
    r"(?:wrong|incorrect|false|impossible|not|mentioned|a (?:number|distractor)|(?:correct|right|the answer)\?)",
    re.IGNORECASE,
)
_EXAMPLE = re.compile(
    r"(?:\be\.?\s?g\.?|\bfor (?:example|instance)|\bsuch as|(?<!looks )\blike(?: this| so)?|\bexample)[\s,:$\\(]*$|"
    r"^\W*(?:please )?(?:put|write|place|give|enclose|wrap|present|provide|format|report|state|box|return)\b[^.!?]*"
    r"\b(?:answer|result|solution|box)\b[^.!?]*$|"
    r"\byour (?:final |own )?(?:answer|result|solution)\b[^.!?]*$|"
    r"\banswer (?:should|must|has to|needs to|is to) be "
    r"(?:written|given|put|placed|enclosed|wrapped|formatted|presented|boxed|in)\b[^.!?]*$",
    re.IGNORECASE,
)
# What stands between the operands of a sum in words.
OPERATION = re.compile(
    r"\W{0,4}(?:plus|minus|times|multiplied by|divided by|added to|subtracted from|take away|over|"
    r"mal|geteilt durch|moins|fois|divisé par|más|menos|por|dividido por|più|meno|per|плюс|минус|умножить на|разделить на|"
    r"加上?|减去?|減去?|乘以?|除以|たす|ひく|かける|わる|더하기|빼기|곱하기|나누기)\W{0,4}",
    re.IGNORECASE,
)
_ABBREVIATION = re.compile(r"\b(?:e\.\s?g|i\.\s?e|etc|vs|no|approx)\.\s*$", re.IGNORECASE)


def sentences(text: str) -> list[str]:
    """``text`` in pieces that join to it again: each sentence with the space after it."""
    ends = [m.end() for m in SENTENCES.finditer(text)]
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True) if b > a]


def told(region: str) -> str:
    """``region`` without its questions, orders and refusals. After a refusal only what is concluded, or stated as the answer, remains."""
    if "?" not in region and not _ORDER.search(region) and not _REFUSAL.search(region):
        return region
    kept: list[str] = []
    refused = False
    for sentence in sentences(region):
        sentence = _SURE.sub(".", sentence)
        asked = sentence.rstrip(" \n*_\"')").endswith("?") or (_ORDER.match(sentence) and not _RESULT.search(sentence))
        refuses = _REFUSAL.search(sentence) is not None
        refused |= refuses
        if asked or (refuses and not _CONCLUSION.search(sentence, _REFUSAL.search(sentence).end())):  # type: ignore[union-attr]
            kept.append("\n" if "\n" in sentence else " ")
        elif refused and not (_CONCLUSION.search(sentence) or re.search(r"answer|####", sentence, re.IGNORECASE)):
            kept.append("\n")
        else:
            kept.append(sentence)
    return "".join(kept)


def denied(text: str, start: int, end: int) -> bool:
    """True if the number at ``start:end`` is compared with, or said not to be the answer."""
    return bool(_DENIED_BEFORE.search(text, max(start - 60, 0), start) or _DENIED_AFTER.match(text, end))


def is_example(text: str, start: int) -> bool:
    r"""True if the box at ``start`` is part of an instruction: ``write the answer in a box, e.g. \boxed{5}``."""
    before = text[max(start - 160, 0) : start]
    for piece in reversed(sentences(before)[:-1]):
        if piece.endswith("\n") or not _ABBREVIATION.search(piece):
            before = before[before.rindex(piece) + len(piece) :]
            break
    return bool(_EXAMPLE.search(before))
