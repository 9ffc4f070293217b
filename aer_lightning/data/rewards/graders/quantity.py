"""The grader of numbers with units: ``5 km`` is ``5000 m``. Units are pint's; the number is read exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from aer_lightning.data.rewards.base import Grade, Outcome
from aer_lightning.data.rewards.boxes import last_boxes, without_examples
from aer_lightning.data.rewards.normalize import normalize
from aer_lightning.data.rewards.numbers import parse_number
from aer_lightning.data.rewards.statements import denied, told
from aer_lightning.data.rewards.text import answer_region, clean
from aer_lightning.errors import ConfigError

_QUANTITY = re.compile(
    r"(?P<number>[+-]?\s?(?:\\frac\{[^{}]{1,20}\}\{[^{}]{1,20}\}|\d[\d,]*(?:\.\d+)?(?:/\d+)?|\.\d+)"
    r"(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:\{\s*[+-]?\d{1,3}\s*\}|-?\d{1,3})|[eE][+-]?\d{1,3})?)"
    r"\s*(?P<unit>(?:\\degree|\\mu|\\cdot|\\%|%|[A-Za-z]+|\s(?=[A-Za-z\\])|[/*]|_\{\d\}|\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d)){0,12})"
)
_MARKER = re.compile(r"####|\banswer\**\s*(?:is|:|=)", re.IGNORECASE)


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True)


@dataclass
class QuantityGrader:
    r"""Correct: the answer is the gold quantity, in its unit or in one that converts to it.

    The gold answer is a text such as ``9.81 m/s^2``, ``3.0 \times 10^8 \text{ m/s}`` or ``25 degC``; one without a unit is a bare number,
    and then no unit is asked for. The answer is the last quantity of the last box, else of what follows "answer is", else of the text.

    Attributes:
        tolerance: relative error that is allowed, 0.01 for one per cent. Conversions are done in double precision whatever it is.
        require_unit: a number without the unit is wrong; false takes it to be in the gold answer's unit.
    """

    tolerance: float = 0.0
    require_unit: bool = True
    isolated: bool = field(default=True, init=False)  # pint reads the unit that a model wrote

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"tolerance: {self.tolerance} is not a relative error in [0, 1)")

    def warm_up(self) -> None:
        """Load pint and its units before workers are forked."""
        _registry().parse_units("m/s")

    def check_gold(self, answer: Any) -> str | None:
        """None if ``answer`` is a number with a unit that pint knows, or a bare number; else what is wrong."""
        gold = None if isinstance(answer, bool) else self._read(clean(str(answer)), whole=True)
        return None if gold else f"{answer!r:.60} is not a number with a known unit"

    def grade(self, completion: str, answer: Any) -> Grade:
        """Compare the quantity found in ``completion`` with ``answer``."""
        gold = None if isinstance(answer, bool) else self._read(clean(str(answer)), whole=True)
        if gold is None:
            return Grade(Outcome.BAD_GOLD, None, self.check_gold(answer) or "")
        region = without_examples(answer_region(completion))
        boxes = last_boxes(region)
        if boxes and len(boxes.parts) > 1:
            return Grade(Outcome.WRONG, boxes.text[:100], "several answers")
        text = boxes.text if boxes else told(region)
        stated = list(_MARKER.finditer(text))
        found = self._read(text[stated[-1].end() :].split("\n")[0] if stated else text)
        if found is None:
            return Grade(Outcome.UNPARSED, None, "no quantity found")
        value, unit, shown = found
        if gold[1] is None or (unit is None and not self.require_unit):
            right, reason = self._close(gold[0], value), ""
        elif unit is None:
            right, reason = False, f"no unit, where {gold[1]} is asked for"
        else:
            registry = _registry()
            try:
                right, reason = self._close(gold[0], registry.Quantity(value, unit).to(gold[1]).magnitude), ""
            except Exception as error:  # pint has an exception for each thing that does not convert
                right, reason = False, f"{unit} is no unit of {gold[1]} ({type(error).__name__})"
        return Grade(Outcome.CORRECT if right else Outcome.WRONG, shown, reason)

    def _close(self, gold: float, value: float) -> bool:
        return abs(gold - value) <= (self.tolerance + 1e-12) * abs(gold)

    def _read(self, text: str, whole: bool = False) -> tuple[float, Any, str] | None:
        """Value, unit (None without one) and text of the last quantity in ``text``; ``whole``: all of it has to be one."""
        text = re.sub(r"\\text\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r" \1 ", normalize(text)).strip()
        found = [m for m in _QUANTITY.finditer(text) if not denied(text, m.start(), m.end())]
        for match in reversed(found if not whole else [m for m in [_QUANTITY.fullmatch(text)] if m]):
            number = parse_number(re.sub(r"\s?x\s?(?=10)", r" \\times ", match["number"]).strip())
            if number is None:
                return None
            known = self._unit(match["unit"], whole)
            if whole and match["unit"].strip() and known is None:
                return None
            try:
                return float(number.value), known, match.group().strip()[:100]
            except OverflowError:
                return None
        return None

    @staticmethod
    def _unit(words: str, whole: bool) -> Any:
        """The unit that ``words`` begin with, the longest that pint knows; the whole of them if ``whole``."""
        text = words.replace("\\degree", " deg").replace("\\mu", "u").replace("\\cdot", "*").replace("\\%", "%").replace("%", " percent ")
        text = re.sub(r"\bdeg(?:rees?)?\s*([CFK])\b", r"deg\1", text).replace("degK", "kelvin")
        text = re.sub(r"\bdegrees?\s+(celsius|fahrenheit)\b", r"deg_\1", text, flags=re.IGNORECASE)
        text = re.sub(r"(?:\^|_(?=\{))\s*\{?\s*(-?\d)\s*\}?", r"**\1", re.sub(r"\s+per\s+", "/", text.strip()))
        text = re.sub(r"\b(?:square|sq)\s+(\w+)", r"\1**2", re.sub(r"\b(?:cubic|cu)\s+(\w+)", r"\1**3", text))
        pieces = re.split(r"\s+", re.sub(r"\s*([*/])\s*", r"\1", text))
        for count in range(len(pieces), 0, -1):
            name = "*".join(pieces[:count]).strip("*/")
            if not name:
                return None
            try:
                return _registry().parse_units(name)
            except Exception:  # UndefinedUnitError and what its parser raises on words
                if whole:
                    return None
        return None
