r"""Does one answer state what another does? Characters first, exact numbers next, shape after that, computer algebra last.

Everything before the last step is string handling with bounded patterns. The rules and their reasons:

- A list is compared element by element, without order unless there are brackets or names that give one; a different count is wrong.
- In an equation chain the last member is the answer, and every constant member before it has to have the same value: ``41 = 42`` states
  nothing. ``x = 41`` states 41 of x. Where the gold answer is an equation itself, the two equations are compared.
- Words are never dropped, except units (see :mod:`~aer_lightning.data.rewards.units`); what has words left is compared as words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from aer_lightning.data.rewards import structure as shape
from aer_lightning.data.rewards.grammar import separate_names, why_not
from aer_lightning.data.rewards.limits import Caps
from aer_lightning.data.rewards.normalize import normalize, squash
from aer_lightning.data.rewards.numbers import Number, based_equal, decimal_comma, numbers_equal, parse_based, parse_number, rounds_to
from aer_lightning.data.rewards.units import UNIT_PATTERN, read_unit

_TEXT_GROUP = re.compile(r"\\text\s*\{([^{}]*)\}")
_LONG_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")
_FUNCTIONS = frozenset(
    {"sqrt", "sinh", "cosh", "tanh", "frac", "infty", "arcsin", "arccos", "arctan", "begin", "matrix", "pmatrix", "bmatrix"}
)
_TRAILING_UNIT = re.compile(rf"(?<=[\d}})])\s*({UNIT_PATTERN})\s*$")
_ABOUT = re.compile(r"^\s*\\approx(?![a-zA-Z])\s*")
_OPTION = re.compile(r"\(?\s*([A-Z])\s*\)?")
_OPTION_WITH_VALUE = re.compile(r"(?:\\text\s*\{\s*)?\(\s*([A-Z])\s*\)\s*\}?[\s\\:.].{0,80}")


class Refused(Exception):
    """The answer could not be read: a cap or the parser refused it."""


@dataclass
class Comparer:
    r"""Compares normalised answers.

    Attributes:
        caps: limits that hold before the parser sees an answer.
        boxed: True if the prediction was in a box. Outside of one, the steps between a name and the last equals sign are taken for
            working, not for a claim: ``x = 5 + 5 + 1 = 11``.
        evaluated: True if a gold answer that is a number is stated by an evaluated number only: ``14``, not ``8 + 6``.
        tolerance: relative error that a decimal may have.
        asked: numbers of the prompt: a root of one of them, ``\sqrt{16}`` where 16 is given, is the question and not evaluated.
    """

    caps: Caps
    boxed: bool = True
    evaluated: bool = True
    tolerance: float = 0.0
    asked: frozenset[str] = frozenset()

    def equal(self, gold: str, pred: str) -> bool:
        """Whether ``pred`` states ``gold``. Raises Refused if ``pred`` cannot be read and has not been decided by then."""
        if squash(gold) == squash(pred) and gold:
            return True
        g, p = parse_number(gold), parse_number(pred)
        if g is not None and p is None and (comma := parse_number(decimal_comma(pred))) is not None:
            p = comma
        if g is not None and p is not None:
            evaluated = p.evaluated and p.radicand not in self.asked
            return numbers_equal(g, p, self.tolerance) and (evaluated or not self._wants_number(g))
        g_based, p_based = parse_based(gold), parse_based(pred)
        if g_based or p_based:
            return based_equal(g_based, p_based, g, p) and not (p_based and self._wants_number(g))
        bare_gold, bare_pred = shape.unwrap(gold), shape.unwrap(pred)
        if (bare_gold, bare_pred) != (gold, pred):
            return self.equal(bare_gold, bare_pred)
        # A number with separators is no list, except that "0,5" may be both.
        golds = [gold] if g is not None and not re.match(r"-?0,", gold) else shape.split_list(gold)
        preds = shape.split_list(pred)
        if len(golds) > 1 or len(preds) > 1:
            return self._lists(gold, pred, golds, preds)
        if (decided := self._equations(gold, pred)) is not None:
            return decided
        if (names := [shape.membership(text) for text in (gold, pred)]) and all(names) and names[0] != names[1]:
            return False  # x \in [0, 1] is not y \in [0, 1]
        gold, pred = shape.without_membership(gold), shape.without_membership(pred)
        if (decided := self._words(gold, pred)) is not None:
            return decided
        if (decided := self._shapes(gold, pred)) is not None:
            return decided
        return self._algebra(gold, pred, g, p)

    def _wants_number(self, gold: Number | None) -> bool:
        """True if the gold answer is an evaluated number, and only such a number states it: the question itself may be one that is not."""
        return self.evaluated and gold is not None and gold.evaluated

    # ---- lists

    def _lists(self, gold: str, pred: str, golds: list[str], preds: list[str]) -> bool:
        if len(preds) > self.caps.parts:
            raise Refused(f"more than {self.caps.parts} parts")
        if len(golds) == 1 and len(preds) > 1:
            if all(map(shape.is_relation, preds)):  # x < 2 or x > 3 against a union of intervals
                return self._unordered(shape.union(shape.without_membership(gold)), preds)
            boxed = shape.bracketed(shape.without_membership(shape.chain(gold).members[-1]))
            if boxed is not None:
                items = self._flat(boxed.items)
                return self._ordered(items, preds) if boxed.open != "\\{" else self._unordered(self._distinct(items), preds)
            # One answer is asked and several are given: right only if all say the same ("1/2 or 0.5"), also of each other: a reading
            # that the gold answer allows each part for itself ("5%" and "2+3" for 5) does not make them one answer.
            return all(self.equal(gold, part) and self.equal(part, preds[0]) and self.equal(preds[0], part) for part in preds)
        if len(preds) == 1:
            boxed = shape.bracketed(shape.chain(pred).members[-1])
            if boxed is None or len(boxed.items) < 2:
                return False
            items = list(boxed.items)
            return self._unordered(golds, self._distinct(items)) if boxed.open == "\\{" else self._ordered(self._values(golds), items)
        names = [shape.chain(g).members for g in golds]
        named = [members[0] for members in names if len(members) > 1]
        if len(named) == len(golds) and len({shape.base_name(name) for name in named}) > 1 and not any("=" in p for p in preds):
            return self._ordered(self._values(golds), preds)  # x = 2, y = 3 against 2, 3: the names give the order
        return self._unordered(golds, preds)

    def _values(self, golds: list[str]) -> list[str]:
        return [shape.chain(g).members[-1] for g in golds]

    def _ordered(self, golds: list[str], preds: list[str]) -> bool:
        return len(golds) == len(preds) and all(self._same_element(normalize(g), normalize(p)) for g, p in zip(golds, preds, strict=True))

    def _same_element(self, gold: str, pred: str) -> bool:
        """As ``equal``, but a percent sign may be left out, or be too many, of a number alone only."""
        g, p = parse_number(shape.chain(gold).members[-1]), parse_number(shape.chain(pred).members[-1])
        return (g is None or p is None or g.percent == p.percent) and self.equal(gold, pred)

    def _unordered(self, golds: list[str], preds: list[str]) -> bool:
        """One-to-one match. Greedy is enough, since being equal is transitive but for roundings."""
        if len(golds) != len(preds):
            return False
        left = [normalize(p) for p in preds]
        for gold in sorted((normalize(g) for g in golds), key=lambda g: parse_number(g) is None):
            squashed = squash(gold)
            match = next((i for i, p in enumerate(left) if squash(p) == squashed), None)
            if match is None:
                match = next((i for i, p in enumerate(left) if self._same_element(gold, p)), None)
            if match is None:
                return False
            left.pop(match)
        return True

    # ---- equations

    def _equations(self, gold: str, pred: str) -> bool | None:
        """Decide where one of the two has an equals sign at its top level; None where neither has."""
        if (about := _ABOUT.sub("", pred)) != pred and (number := parse_number(gold)) and number.decimals is None:
            return False  # about 42 is not 42, where about 6.28 is all that 6.28 says
        g, p = shape.chain(gold), shape.chain(about)
        if len(g.members) == len(p.members) == 1:
            return self.equal(gold, p.members[0]) if p.members[0] != pred else None
        values = self._gold_values(g)
        if len(p.members) == 1:
            return any(self.equal(member, pred) for member in values)
        value = self._chain_value(p, g)
        if value is None:
            return False
        if len(g.members) == 1:
            return self.equal(gold, value)
        if values == list(g.members):
            return any(self.equal(member, value) for member in values)
        first, last = g.members[0], g.members[-1]
        if shape.is_name(first) and shape.is_name(p.members[0]) and squash(first) == squash(p.members[0]):
            return self.equal(last, value)
        if shape.is_plain_name(first) and shape.is_plain_name(p.members[0]) and not (self._symbols(last) or self._symbols(value)):
            return False  # x = 5 is not y = 5
        return self._algebra(f"{first}={last}", f"{p.members[0]}={value}", None, None)

    def _gold_values(self, g: shape.Chain) -> list[str]:
        r"""The members of a gold chain that answer for it alone; none of an equation, which has to be given as one.

        Of ``x = 2\pi`` the last; of ``x = 2\pi \approx 6.28`` the rounded and the exact one; of constants, ``\frac12 = 0.5``, each.
        """
        if not any(map(self._open, g.members)):
            return list(g.members)
        if not any(shape.is_name(member) and not re.search(r"[-+*]", member) for member in g.members[:-1]):
            return []
        return list(g.members[-2:] if g.approximate[-1] and len(g.members) > 2 else g.members[-1:])

    @staticmethod
    def _symbols(text: str) -> bool:
        return bool(re.search(r"(?<![\\A-Za-z])[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", text)))

    def _chain_value(self, p: shape.Chain, g: shape.Chain) -> str | None:
        """The member of a predicted chain that is its answer; None if the chain contradicts itself."""
        members, approximate = list(p.members), list(p.approximate)
        lenient = not self.boxed and shape.is_name(members[0])
        # "1/3 = 0.333..." and "125/3 \approx 41.67": what is left of an approximation sign is the exact value.
        rounded = None
        while len(members) > 1 and approximate[-1] and not (len(members) == 2 and self._open(members[0])):
            if self._same_value(members[-2], members[-1]):
                break
            if parse_number(members[-1]) is None and parse_number(members[-2]) is not None:  # 6.28 \approx 2\pi
                members[-2:] = members[:-3:-1]
            rounded = members.pop()
            approximate.pop()
            if not lenient and not self._rounds(members[-1], rounded):
                return None
        value = members[-1]
        if not lenient:
            for member in members[:-1]:
                if not member or (not self._open(member) and not self._same_value(member, value)):
                    return None
            if parse_number(value) is None:  # 14 = 8 + 6 says 14 as well
                value = next((m for m in reversed(members) if (n := parse_number(m)) is not None and n.evaluated), value)
        if rounded is not None and len(g.members) == 1 and self._asks_for(g.members[0], rounded):
            return rounded
        return value or None

    @staticmethod
    def _asks_for(gold: str, rounded: str) -> bool:
        """True if the gold answer is written as a decimal and the rounded member of the chain is that decimal."""
        g, p = parse_number(gold), parse_number(rounded)
        return g is not None and p is not None and g.decimals is not None and g.value == p.value

    def _open(self, member: str) -> bool:
        """True if a member holds an unknown or a name, so that an equation says something about it."""
        if parse_number(member) is not None:
            return False
        return self._symbols(_TEXT_GROUP.sub(" x ", member)) and not self._is_constant(member)

    def _is_constant(self, member: str) -> bool:
        from aer_lightning.data.rewards import symbolic

        return self.caps.refuse(member) is None and symbolic.is_constant(member)

    def _same_value(self, a: str, b: str) -> bool:
        try:
            return replace(self, evaluated=False).equal(a, b)
        except Refused:
            return False

    def _rounds(self, exact: str, shown: str) -> bool:
        from aer_lightning.data.rewards import symbolic

        number, target = parse_number(exact), parse_number(shown)
        if self._open(exact):
            return True
        if target is None:
            return self._same_value(exact, shown)
        if number is not None:
            return rounds_to(number.value, target)
        return self.caps.refuse(exact) is None and symbolic.constant_rounds_to(exact, target)

    # ---- words

    def _words(self, gold: str, pred: str) -> bool | None:
        """Decide where one of the two is words; None where neither is."""
        g_option, p_option = _OPTION.fullmatch(_plain(gold)), _OPTION.fullmatch(_plain(pred))
        if g_option and (p_option or (p_option := _OPTION_WITH_VALUE.fullmatch(pred))):
            return g_option.group(1) == p_option.group(1)
        if not (_has_words(gold) or _has_words(pred)):
            return None
        if _letters(gold) == _letters(pred) and _letters(gold):
            return True
        g, p = _drop_unit(gold), _drop_unit(pred)
        if _has_words(g) or _has_words(p):
            return False
        if (g, p) == (gold, pred):
            return None
        return self.equal(g, p) if g and p else False

    # ---- tuples, unions, ratios

    def _shapes(self, gold: str, pred: str) -> bool | None:
        g_terms, p_terms = shape.ratio(gold), shape.ratio(pred)
        if len(g_terms) > 1 or len(p_terms) > 1:
            return self._ordered(g_terms, p_terms)
        g, p = shape.bracketed(gold), shape.bracketed(pred)
        if g and p:
            if "\\{" in (g.open, p.open) and g.open != p.open:
                return False
            if g.open == "\\{":
                return self._unordered(self._distinct(self._flat(g.items)), self._distinct(self._flat(p.items)))
            return (g.open, g.close) == (p.open, p.close) and self._ordered(list(g.items), list(p.items))
        for one, other in ((g, pred), (p, gold)):
            if one and one.open == "\\{" and len(one.items) == 1 and not shape.is_relation(other):
                return self.equal(gold, normalize(one.items[0])) if one is p else self.equal(normalize(one.items[0]), pred)
        g_sets, p_sets = shape.union(gold), shape.union(pred)
        if len(g_sets) == len(p_sets) > 1 and self._unordered(g_sets, p_sets):
            return True
        if shape.is_relation(pred) and not shape.is_relation(gold) and not g and len(g_sets) == 1:
            return False  # 41 < 42 is no number
        return None

    def _flat(self, items: tuple[str, ...]) -> list[str]:
        return [side for item in items for side in shape.split_list(item)]

    def _distinct(self, items: list[str]) -> list[str]:
        """The elements of a set, each once."""
        kept: list[str] = []
        for item in map(normalize, items):
            if not any(self._same_value(item, other) for other in kept):
                kept.append(item)
        return kept

    # ---- computer algebra

    def _algebra(self, gold: str, pred: str, g: Number | None, p: Number | None) -> bool:
        try:
            return self._by_algebra(gold, pred, g, p)
        except (ArithmeticError, AttributeError, LookupError, NotImplementedError, RecursionError, TypeError, ValueError) as error:
            # What sympy raises on mathematics that it cannot handle says nothing about this grader.
            raise Refused(f"not understood as mathematics ({type(error).__name__})") from error

    def _by_algebra(self, gold: str, pred: str, g: Number | None, p: Number | None) -> bool:
        from aer_lightning.data.rewards import symbolic

        if refused := self.caps.refuse(pred):
            raise Refused(refused)
        if self.caps.refuse(gold):
            return False  # a gold answer of this size is matched as text only
        gold, pred = separate_names(gold, pred)
        if refused := why_not(pred):
            raise Refused(refused)
        for number, text in ((g, pred), (p, gold)):
            if number is not None:
                same = symbolic.number_equals_constant(number, text, self.tolerance)
                if same is not None:
                    return same and not (number is g and self._wants_number(g) and symbolic.evaluate(text) is not None)
        same = symbolic.expressions_equal(gold, pred)
        if same is None:
            raise Refused("not understood as mathematics")
        return same


def _plain(answer: str) -> str:
    return _TEXT_GROUP.sub(r"\1", answer).strip()


def _letters(answer: str) -> str:
    """Words without case, spaces and punctuation. A single letter, which may be a variable, keeps its case, and a number all its signs."""
    text = _plain(answer)
    text = text.replace(" ", "").rstrip(".") if any(map(str.isdigit, text)) else re.sub(r"[\s.,;:'\"()!?_-]|\\ ", "", text)
    return text.casefold() if len(text) > 1 else text


def _has_words(answer: str) -> bool:
    """True if there is text that is no formula: non-empty text groups, or words that are no function names."""
    if any(re.search(r"[A-Za-z]", group) for group in _TEXT_GROUP.findall(answer)):
        return True
    if re.search(r"(?![\x00-\x7f])[^\W\d_]", answer):  # letters that clean() has not made into symbols
        return True
    bare = re.sub(r"\\(?:begin|end)\{[a-z]+\}", " ", answer)
    return any(word.lower() not in _FUNCTIONS for word in _LONG_WORD.findall(bare))


def _drop_unit(answer: str) -> str:
    """``answer`` without a unit at its end."""
    found = _TRAILING_UNIT.search(answer)
    if found:
        unit = read_unit(found.group(1), attached=found.start() == found.start(1))
        if unit is not None and unit.scale == 1:
            return answer[: found.start()].strip()
    return answer
