"""Grades Countdown: an expression that uses every given number exactly once and has the target's value."""

from __future__ import annotations

import re
import time
from collections import Counter
from fractions import Fraction
from typing import Any

from aer_lightning.data.rewards.base import Grade, Outcome

MAX_CHARS = 256  # of a completion without its outer white space
MAX_DIGITS = 9  # of one number in it
MAX_DEPTH = 32  # of parentheses

# ASCII only: int() would read other scripts' digits too. A leading zero is not a number of the game.
_TOKEN = re.compile(r"[ \t]*(?:(0|[1-9][0-9]*)(?![0-9])|([-+*/()]))[ \t]*")


class ExpressionError(ValueError):
    """The text is not an expression; the message says why in a few words."""


def tokenize(text: str) -> list[int | str]:
    """Split an expression into integers and the operators and parentheses ``+ - * / ( )``.

    Raises:
        ExpressionError: the text is empty, has more than ``MAX_CHARS`` characters, a number with more than ``MAX_DIGITS``
            digits, or a character that is none of these.
    """
    text = text.strip()
    if not text:
        raise ExpressionError("empty")
    if len(text) > MAX_CHARS:
        raise ExpressionError(f"longer than {MAX_CHARS} characters")
    tokens: list[int | str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExpressionError(f"unexpected {text[at]!r}")
        if match[1] is None:
            tokens.append(match[2])
        elif len(match[1]) > MAX_DIGITS:
            raise ExpressionError(f"a number with more than {MAX_DIGITS} digits")
        else:
            tokens.append(int(match[1]))
        at = match.end()
    return tokens


class _Parser:
    """Recursive descent over tokens: sum = product {(+|-) product}, product = atom {(*|/) atom}, atom = number | ( sum ).

    There is no unary sign and no implied multiplication: every number of the problem appears as it was given.
    """

    def __init__(self, tokens: list[int | str]) -> None:
        self.tokens = tokens
        self.at = 0
        self.divided_by_zero = False

    def parse(self) -> Fraction:
        value = self._sum(0)
        if self.at < len(self.tokens):
            raise ExpressionError(f"unexpected {self._peek()!r}")
        return value

    def _peek(self) -> int | str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def _take(self) -> int | str | None:
        token = self._peek()
        self.at += 1
        return token

    def _sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self._peek() in ("+", "-"):
            operator = self._take()
            right = self._product(depth)
            value = value + right if operator == "+" else value - right
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._atom(depth)
        while self._peek() in ("*", "/"):
            operator = self._take()
            right = self._atom(depth)
            if operator == "*":
                value *= right
            elif right == 0:
                self.divided_by_zero = True  # the rest is still parsed, so that a syntax error after it is found
            else:
                value /= right
        return value

    def _atom(self, depth: int) -> Fraction:
        token = self._take()
        if isinstance(token, int):
            return Fraction(token)
        if token != "(":
            raise ExpressionError("ends too early" if token is None else f"unexpected {token!r}")
        if depth == MAX_DEPTH:
            raise ExpressionError(f"more than {MAX_DEPTH} nested parentheses")
        value = self._sum(depth + 1)
        if self._take() != ")":
            raise ExpressionError("a parenthesis is not closed")
        return value


def evaluate(text: str) -> tuple[list[int], Fraction | None]:
    """Numbers in an expression, in order, and its exact value; None where it divides by zero.

    Work and memory are bounded for every text: at most ``MAX_CHARS`` characters are parsed, and no operator makes a number
    with more digits than its operands have together.

    Raises:
        ExpressionError: the text is not an expression.
    """
    tokens = tokenize(text)
    parser = _Parser(tokens)
    value = parser.parse()
    return [token for token in tokens if isinstance(token, int)], None if parser.divided_by_zero else value


class CountdownGrader:
    """Correct: the whole completion is one expression with each given number exactly once and the target's value.

    Wrong: an expression, but with other numbers or another value. Unparsed: anything else. Values are exact fractions and
    intermediate values may be negative or broken. The gold answer is ``{"numbers": [int, ...], "target": int}``.
    """

    isolated = False  # own parser, bounded work: no worker process needed
    answers_from_prompt = True

    def check_gold(self, answer: Any) -> str | None:
        """None if ``answer`` is ``{"numbers": [integers >= 0], "target": integer}``, else what is wrong with it."""
        if not isinstance(answer, dict):
            return f"the answer is not an object with numbers and target: {answer!r:.80}"
        numbers, target = answer.get("numbers"), answer.get("target")
        if not isinstance(numbers, list | tuple) or not numbers or not all(type(n) is int and n >= 0 for n in numbers):
            return f"numbers is not a list of integers >= 0: {numbers!r:.80}"
        return None if type(target) is int else f"target is not an integer: {target!r:.80}"

    def grade(self, completion: str, answer: Any) -> Grade:
        """Grade the text of one completion, without special tokens, against ``{"numbers", "target"}``."""
        start = time.perf_counter()
        outcome, extracted, reason = self._verdict(completion, answer)
        return Grade(outcome, extracted, reason, 1000 * (time.perf_counter() - start))

    def _verdict(self, completion: str, answer: Any) -> tuple[Outcome, str | None, str]:
        if (problem := self.check_gold(answer)) is not None:
            return Outcome.BAD_GOLD, None, problem
        try:
            numbers, value = evaluate(completion)
        except ExpressionError as error:
            return Outcome.UNPARSED, None, str(error)
        expression = completion.strip()
        if Counter(numbers) != Counter(answer["numbers"]):
            return Outcome.WRONG, expression, "not each number exactly once"
        if value is None:
            return Outcome.WRONG, expression, "division by zero"
        if value != answer["target"]:
            return Outcome.WRONG, expression, "another value"
        return Outcome.CORRECT, expression, ""
