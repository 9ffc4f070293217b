r"""Words after a number. A known unit may be left out or abbreviated but not replaced; a word that changes the value is never dropped."""

from __future__ import annotations

import re
from dataclasses import dataclass

# canonical name -> spellings (singular); a plural "s" or "es" is understood
_NAMES: dict[str, str] = {
    "m": "m meter metre", "cm": "cm centimeter centimetre", "mm": "mm millimeter millimetre", "km": "km kilometer kilometre",
    "in": "in inch", "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile",
    "s": "s sec second", "min": "min minute", "h": "h hr hour", "day": "day", "week": "week", "month": "month", "year": "yr year",
    "kg": "kg kilogram", "g": "g gm gram", "mg": "mg milligram", "lb": "lb pound", "oz": "oz ounce",
    "l": "l liter litre", "ml": "ml milliliter millilitre", "gal": "gal gallon",
    "dollar": "dollar usd buck", "cent": "cent", "euro": "euro eur", "yuan": "yuan rmb", "yen": "yen", "rupee": "rupee",
    "degree": "degree deg", "rad": "rad radian",
    "mph": "mph", "km/h": "kmh kmph km/h", "m/s": "m/s",
}  # fmt: skip
_CANONICAL = {spelling: name for name, spellings in _NAMES.items() for spelling in spellings.split()}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
# Words that change what a number says: dropping one of them as if it were a unit would pay for another answer.
_LOADED_WORDS = """or and not no never without except but either neither nor maybe perhaps possibly probably unknown between from to
    than more less fewer greater most least about approximately roughly around nearly almost over under above below up down plus minus
    times negative positive squared cubed factorial half halves third thirds quarter quarters fourth fourths fifth fifths tenth tenths
    hundredth hundredths thousandth thousandths twice double triple choose mod modulo base percent if when instead wrong incorrect false any
    all other another also while versus vs root square_root power inverse reciprocal point pi infinity infinite zero one two three
    sin cos tan cot sec csc log exp lim det gcd lcm sqrt
    four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety"""
_LOADED = frozenset(_LOADED_WORDS.split())
_MAX_WORDS = 5
_WORD = re.compile(r"[a-zA-Z]+(?:/[a-zA-Z]+)?")
_POWER = re.compile(r"\^\s*\{?\s*([23])\s*\}?\s*\}?\s*$")

# What may follow a number: a degree sign; words in \text{...}, with an exponent; plain words. Read from right to left by ``$``.
UNIT_PATTERN = (
    r"\\degree(?:\s*[CF])?|"
    r"(?:\\text\{[^{}]{1,60}\}\s*){1,3}(?:\^\s*\{?\s*[23]\s*\}?)?|"
    r"[a-zA-Z][a-zA-Z./ ]{1,60}(?:\^\s*\{?\s*[23]\s*\}?)?|"
    r"\\cent|\\pmod\s*\{[^{}]{1,20}\}|\(\s*\\text\{\s*mod\s*\}[^()]{1,20}\)"
)


OTHER = "?"
_IDLE = frozenset(("unit", "units", "total", "altogether", "each", "only", "exactly", "long", "wide", "high", "tall", "old", "away"))


@dataclass(frozen=True, slots=True)
class Unit:
    """What followed a number.

    Attributes:
        name: canonical unit; ``OTHER`` for one word that is no known unit ("apples"); "" for words that say nothing of one.
        power: 1, 2 or 3 (length, area, volume).
        scale: a number word before the unit ("million"), by which the value is multiplied.
    """

    name: str
    power: int = 1
    scale: int = 1

    def same(self, other: Unit) -> bool:
        """Two known units have to agree, and a known one is not another word; "apples" and "fruits" may be the same thing."""
        if not (self.name and other.name) or self.name == other.name == OTHER:
            return True
        return (self.name, self.power) == (other.name, other.power)


def _canonical(word: str) -> str:
    for spelling in (word, word.removesuffix("s"), word.removesuffix("es")):
        if spelling in _CANONICAL:
            return _CANONICAL[spelling]
    return ""


def read_unit(text: str, attached: bool = False) -> Unit | None:
    """Read what follows a number; None if it is no unit and may not be dropped. ``attached``: no space stands between the two."""
    if text.startswith("\\degree"):
        return Unit("degree")
    if text.startswith(("\\pmod", "(")):
        return Unit("")
    if text == "\\cent":
        return Unit("cent")
    raw = not text.startswith("\\text")
    power = 1
    raised = _POWER.search(text)
    if raised:
        power, text = int(raised.group(1)), text[: raised.start()]
    text = text.replace("\\text", " ").replace("{", " ").replace("}", " ")
    if re.search(r"[^a-zA-Z\s./,\-()]|^\s*/", text):
        return None
    words = [word.lower() for word in _WORD.findall(text)]
    if not words or len(words) > _MAX_WORDS:
        return None
    scale = 1
    while words and words[0] in _SCALES:
        scale *= _SCALES[words.pop(0)]
    for adjective, exponent in (("square", 2), ("sq", 2), ("cubic", 3), ("cu", 3)):
        if words and words[0] == adjective:
            power = exponent
            words.pop(0)
    if any(word in _LOADED or word in _SCALES for word in words):
        return None
    if raw and words and words[0] != "per" and not (len(words) == 1 and _canonical(words[0])) and (attached or max(map(len, words)) < 4):
        return None  # letters that may as well be a product of variables: 42xy
    return Unit(_name(words), power, scale)


def _name(words: list[str]) -> str:
    """The unit that ``words`` name: ``cm``, ``cm long``, ``miles per hour``; "" where they name none."""
    if len(words) == 1:
        return "" if words[0] in _IDLE else _canonical(words[0]) or OTHER
    if len(words) == 3 and words[1] == "per" and (over := _canonical(words[0])) and (under := _canonical(words[2])):
        return {"mi/h": "mph"}.get(f"{over}/{under}", f"{over}/{under}")
    known = {name for word in words if len(word) > 2 and (name := _canonical(word))}
    return known.pop() if len(known) == 1 else ""
