"""The grader of multiple choice: one letter, and one only."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from aer_lightning.data.rewards.base import Grade, Outcome
from aer_lightning.data.rewards.boxes import last_boxes, without_examples
from aer_lightning.data.rewards.languages import ANSWER, IS
from aer_lightning.data.rewards.statements import denied, told
from aer_lightning.data.rewards.text import answer_region
from aer_lightning.errors import ConfigError

_WRAP = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boldsymbol)\s*\{([^{}]*)\}|[$*]")


@dataclass
class ChoiceGrader:
    r"""Correct: the completion chooses the gold letter. Wrong: another letter, or several. Unparsed: no choice.

    A choice is the last box (``\boxed{B}``, ``\boxed{\text{(B) } 12}``), else the last "answer is B", "Answer: (B)", "option B", else a
    completion that is the letter alone, with or without the text of the option after it.

    Attributes:
        letters: the options there are.
    """

    letters: str = "ABCDE"
    isolated: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if len(self.letters) < 2 or not self.letters.isalpha() or not self.letters.isupper():
            raise ConfigError(f"letters: {self.letters!r} is not a row of two or more capital letters, such as ABCDE")
        self._one = rf"(?:\(\s*[{self.letters}{self.letters.lower()}]\s*\)|[{self.letters}](?![A-Za-z'’]))"
        self._list = re.compile(rf"({self._one})((?:\s*(?:,|/|&|\bor\b|\band\b|\bnor\b)\s*(?:option\s+|choice\s+)?{self._one})*)")
        self._marked = re.compile(
            rf"(?:\b(?:answer|option|choice|choose|pick|select(?:ed)?)\b|####|{ANSWER})"
            rf"(?:\s|[:=*\"']|\b(?:is|are|to|be|must|should|would|option|choice|letter|the|correct)\b|{IS})*"
            rf"(?P<choice>{self._list.pattern})",
            re.IGNORECASE,
        )

    def check_gold(self, answer: Any) -> str | None:
        """None if ``answer`` is one of the letters, in brackets or not; else what is wrong."""
        return None if self._gold(answer) else f"{answer!r:.40} is not one of the options {', '.join(self.letters)}"

    def grade(self, completion: str, answer: Any) -> Grade:
        """Compare the option that ``completion`` chooses with ``answer``."""
        gold = self._gold(answer)
        if gold is None:
            return Grade(Outcome.BAD_GOLD, None, self.check_gold(answer) or "")
        chosen, shown = self._choices(answer_region(completion))
        if not chosen:
            return Grade(Outcome.UNPARSED, shown, "no choice found")
        return Grade(Outcome.CORRECT if chosen == {gold} else Outcome.WRONG, ", ".join(sorted(chosen)))

    def _gold(self, answer: Any) -> str | None:
        letter = re.fullmatch(r"\(?\s*([A-Za-z])\s*[).:]?", _WRAP.sub(r"\1", str(answer)).strip())
        return letter[1].upper() if letter and letter[1].upper() in self.letters else None

    def _choices(self, region: str) -> tuple[set[str], str | None]:
        """The letters that are chosen and the text they were read from."""
        region = without_examples(region)
        if boxes := last_boxes(region):
            chosen: set[str] = set()
            for part in boxes.parts:
                text = _WRAP.sub(r"\1", part).strip()
                alone = re.fullmatch(rf"[{self.letters.lower()}]", text)
                head = None if alone else self._list.match(text)
                chosen |= {text.upper()} if alone else self._letters(head.group()) if head else {"?"}
            return (chosen, boxes.text[:100]) if chosen != {"?"} else (set(), boxes.text[:100])
        text = _WRAP.sub(r"\1", told(region))
        for match in reversed(list(self._marked.finditer(text))):
            # Case matters for the letter alone: "the answer is a number" chooses nothing.
            if match["choice"][0] != "(" and not match["choice"][0].isupper():
                continue
            if not denied(text, match.start("choice"), match.end("choice")):
                return self._letters(match["choice"]), match.group()[-100:]
        line = text.strip()
        head = self._list.match(line)
        after = line[head.end() :] if head else ""
        if head and "\n" not in line and (not after.strip(".") or head.group().endswith(")") or re.match(r"[.):]\s", after)):
            rest = re.findall(rf"(?:^|\s)\(?([{self.letters}])[).:]\s", after)
            return self._letters(head.group()) | set(rest), line[:100]
        return set(), None

    def _letters(self, text: str) -> set[str]:
        return {letter.upper() for letter in re.findall(rf"(?<![A-Za-z])[{self.letters}{self.letters.lower()}](?![A-Za-z])", text)}
