"""From raw model text to the part that may hold an answer, in plain characters. Linear in the length of the text; no parser."""

from __future__ import annotations

import re
import unicodedata

# Only this many characters, from the end, are ever looked at: the answer is at the end, and every later step is bounded by it.
MAX_COMPLETION_CHARS = 200_000

_SYMBOLS = {
    "−": "-", "–": "-", "‐": "-", "‑": "-", "﹣": "-",
    "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "∕": "/", "⁄": "/",
    "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\neq ", "≈": r"\approx ", "≃": r"\approx ", "≡": r"\equiv ",
    "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "π": r"\pi ", "°": r"^\circ ", "√": r"\sqrt ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "∅": r"\emptyset ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "…": r"\ldots ", "→": r"\to ",
    "。": ". ", "।": ". ", "؟": "?", "،": ",", "、": ", ", "٫": ".", "٬": ",", "′": "'", "″": "''",
    "‘": "'", "’": "'", "“": '"', "”": '"', "\r": "\n", "\t": " ", "\f": " ", "\v": " ", "\u2028": "\n", "\u2029": "\n", "\x85": "\n",
}  # fmt: skip
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-", strict=True))
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")

_THINK_NAME = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?\w{0,8}|reflection|scratchpad)"
_THINK_CLOSE = re.compile(rf"</\s?{_THINK_NAME}\s?>|<\|end_of_thought\|>|◁/think▷", re.IGNORECASE)
_THINK_OPEN = re.compile(rf"<\s?{_THINK_NAME}\s?>|<\|begin_of_thought\|>|◁think▷", re.IGNORECASE)
# Text after one of these belongs to another turn of the conversation, not to this answer.
_TURN_END = re.compile(r"<\|(?:im_end|im_start|endoftext|eot_id|end_of_text|end|user|start_header_id)\|>|<end_of_turn>|</s>")


class _Table(dict[int, "str | None"]):
    """Translation of single characters for ``str.translate``, filled as characters are met."""

    def __missing__(self, code: int) -> str | None:
        char = chr(code)
        category = unicodedata.category(char)
        plain: str | None = char
        if category in ("Cc", "Cf") and char != "\n":  # control, zero-width and direction characters can hide what is compared
            plain = None
        elif category == "Cs":  # lone surrogates have no meaning and break encoders
            plain = "\ufffd"
        elif category == "Zs":
            plain = " "
        elif category == "Nd":  # digits of any script, full-width and mathematical ones among them
            plain = str(unicodedata.decimal(char))
        elif 0xFF01 <= code <= 0xFF5E:  # full-width forms of ASCII
            plain = chr(code - 0xFEE0)
        elif 0x1D400 <= code <= 0x1D7FF:  # mathematical letters: bold, italic, script
            plain = unicodedata.normalize("NFKC", char)
        elif category == "No" and unicodedata.decomposition(char).startswith("<fraction>"):
            over, _, under = unicodedata.normalize("NFKC", char).partition("⁄")
            plain = rf"\frac{{{over}}}{{{under}}}" if under else None
        self[code] = plain
        return plain


_TABLE = _Table({ord(char): text for char, text in _SYMBOLS.items()})


def clean(text: str) -> str:
    """Plain characters only: hidden ones removed, digits and full-width forms made ASCII, mathematical symbols made LaTeX.

    Superscripts become exponents before anything else sees them: compatibility normalisation alone would read ``x²`` as ``x2``.
    """
    if not text.isascii():
        text = _RAISED.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m.group()) + "}", text)
        text = _LOWERED.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m.group()) + "}", text)
    return text.translate(_TABLE)


def answer_region(completion: str, max_chars: int = MAX_COMPLETION_CHARS) -> str:
    """The text in which an answer counts: after the last closing thinking tag, before the next turn of the conversation.

    Text inside a thinking section that was opened and never closed is thought, not answer: what is before it is returned.
    """
    text = clean(completion[-max_chars:])
    closings = list(_THINK_CLOSE.finditer(text))
    if closings:
        text = text[closings[-1].end() :]
    opening = _THINK_OPEN.search(text)
    if opening:
        text = text[: opening.start()]
    start = 0
    for end in _TURN_END.finditer(text):
        if text[start : end.start()].strip():
            return text[start : end.start()]
        start = end.end()
    return text[start:]
