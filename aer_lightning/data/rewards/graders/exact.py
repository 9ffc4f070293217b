"""The grader of answers that have to be a given text: a name, a word, a line of code."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from aer_lightning.data.rewards.base import Grade, Outcome
from aer_lightning.data.rewards.boxes import last_boxes
from aer_lightning.data.rewards.statements import told
from aer_lightning.data.rewards.text import answer_region
from aer_lightning.errors import ConfigError

_MARKER = re.compile(r"(?:####|\banswer\**\s*(?:is|:|=)\**)[\s:]*(.+)", re.IGNORECASE)
_EDGES = " \t\n\"'`*.,;:!"


@dataclass
class ExactGrader:
    """Correct: the answer is the gold text, or one of a list of them, character for character after the normalisation asked for.

    Attributes:
        extract: ``boxed`` the last box, ``final_answer`` the line after the last "answer is", "Answer:" or "####", ``whole`` all of the
            completion, ``auto`` the first of these that is there.
        ignore_case: ``Paris`` is ``paris``.
        ignore_edges: drop quotation marks, stars and punctuation at both ends; blank space between words is one space in any case.
    """

    extract: Literal["auto", "boxed", "final_answer", "whole"] = "auto"
    ignore_case: bool = True
    ignore_edges: bool = True
    isolated: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.extract not in ("auto", "boxed", "final_answer", "whole"):
            raise ConfigError(f"extract: {self.extract!r} is not one of auto, boxed, final_answer, whole")

    def check_gold(self, answer: Any) -> str | None:
        """None for a text, a number, or a list of them that leave something to compare; else what is wrong."""
        golds = answer if isinstance(answer, list | tuple) else [answer]
        if not golds:
            return "an empty list of accepted answers"
        for gold in golds:
            if isinstance(gold, bool) or not isinstance(gold, str | int | float):
                return "not a text or a number"
            if not self.answer_form(str(gold)):
                return "empty"
        return None

    def grade(self, completion: str, answer: Any) -> Grade:
        """Compare the answer found in ``completion`` with ``answer``."""
        if bad := self.check_gold(answer):
            return Grade(Outcome.BAD_GOLD, None, bad)
        found = self._find(answer_region(completion))
        if not found:
            return Grade(Outcome.UNPARSED, None, "no answer found")
        golds = answer if isinstance(answer, list | tuple) else [answer]
        right = self.answer_form(found) in {self.answer_form(str(gold)) for gold in golds}
        return Grade(Outcome.CORRECT if right else Outcome.WRONG, found[:500])

    def answer_form(self, extracted: str) -> str:
        """The text that is compared."""
        text = " ".join(extracted.split())
        text = text.strip(_EDGES) if self.ignore_edges else text
        return text.casefold() if self.ignore_case else text

    def _find(self, region: str) -> str:
        if self.extract in ("auto", "boxed"):
            boxes = last_boxes(region)
            if boxes or self.extract == "boxed":
                return re.sub(r"^\\text(?:bf|it|tt)?\{([^{}]*)\}$", r"\1", boxes.text) if boxes else ""
        if self.extract in ("auto", "final_answer"):
            stated = _MARKER.findall(told(region))
            if stated or self.extract == "final_answer":
                return stated[-1].strip() if stated else ""
        return region.strip()
