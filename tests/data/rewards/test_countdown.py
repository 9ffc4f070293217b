import ast
import pickle
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aer_lightning.data.rewards.base import Grader, Outcome
from aer_lightning.data.rewards.countdown import MAX_CHARS, MAX_DEPTH, MAX_DIGITS, CountdownGrader, ExpressionError, evaluate

GRADER = CountdownGrader()
GOLD = {"numbers": [3, 7, 25], "target": 46}


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("3*7+25", Outcome.CORRECT),
        (" 25 + (7*3)\n", Outcome.CORRECT),
        ("((25))+3*7", Outcome.CORRECT),
        ("25+3*7+0", Outcome.WRONG),  # a number that was not given
        ("25+7*7-3", Outcome.WRONG),  # 7 twice
        ("25+21", Outcome.WRONG),
        ("46", Outcome.WRONG),
        ("25+3+7", Outcome.WRONG),
        ("25*(3+7)", Outcome.WRONG),
        ("25/(7-7)", Outcome.WRONG),
        ("", Outcome.UNPARSED),
        ("   ", Outcome.UNPARSED),
        ("3*7+25=46", Outcome.UNPARSED),
        ("3*7+25;", Outcome.UNPARSED),
        ("The answer is 3*7+25", Outcome.UNPARSED),
        ("3*7+", Outcome.UNPARSED),
        ("3*7+25)", Outcome.UNPARSED),
        ("(3*7+25", Outcome.UNPARSED),
        ("3*(7+)25", Outcome.UNPARSED),
        ("3(7)+25", Outcome.UNPARSED),
        ("3 7+25", Outcome.UNPARSED),
        ("-3*-7+25", Outcome.UNPARSED),
        ("+3*7+25", Outcome.UNPARSED),
        ("03*7+25", Outcome.UNPARSED),
        ("3.0*7+25", Outcome.UNPARSED),
        ("3e0*7+25", Outcome.UNPARSED),
        ("3**7+25", Outcome.UNPARSED),
        ("3//7+25", Outcome.UNPARSED),
        ("\uff13*7+25", Outcome.UNPARSED),  # a full-width digit
        ("\u0663*7+25", Outcome.UNPARSED),  # an Arabic-Indic digit
        ("3\u00d77+25", Outcome.UNPARSED),
        ("__import__('os').getpid()", Outcome.UNPARSED),
        ("\x00", Outcome.UNPARSED),
        ("\ud800", Outcome.UNPARSED),
    ],
)
def test_verdicts(text, outcome):
    grade = GRADER.grade(text, GOLD)
    assert grade.outcome is outcome
    assert grade.reward == (outcome is Outcome.CORRECT)
    assert grade.extracted == (None if outcome is Outcome.UNPARSED else text.strip())
    assert bool(grade.reason) == (outcome is not Outcome.CORRECT)
    assert grade.ms >= 0


def test_reasons():
    def reason(text, gold=GOLD):
        return GRADER.grade(text, gold).reason

    assert reason("25+3+7") == "another value"
    assert reason("25+21") == "not each number exactly once"
    assert reason("25/(7-7)", {"numbers": [25, 7, 7], "target": 1}) == "division by zero"
    assert reason("(3*7") == "a parenthesis is not closed"


def test_values_are_exact():
    third = {"numbers": [1, 3, 3], "target": 1}
    assert GRADER.grade("1/3*3", third).outcome is Outcome.CORRECT
    assert GRADER.grade("8/(3-8/3)", {"numbers": [3, 3, 8, 8], "target": 24}).outcome is Outcome.CORRECT
    assert GRADER.grade("8/(3-8/3)", {"numbers": [3, 3, 8], "target": 24}).outcome is Outcome.WRONG
    assert GRADER.grade("2-10+9", {"numbers": [2, 9, 10], "target": 1}).outcome is Outcome.CORRECT  # negative on the way
    assert GRADER.grade("7/2", {"numbers": [7, 2], "target": 3}).outcome is Outcome.WRONG  # not rounded
    big = 10**MAX_DIGITS - 1
    assert GRADER.grade(f"{big}*{big}", {"numbers": [big, big], "target": big**2}).outcome is Outcome.CORRECT
    assert GRADER.grade(f"{big}*{big}", {"numbers": [big, big], "target": big**2 + 1}).outcome is Outcome.WRONG


@pytest.mark.parametrize("text", ["(" * 10**6, "1" * 10**6, "1+" * 10**6, "9*" * 120 + "9", "1/" * 120 + "7", ")" * 300, "((((" * 60 + "1"])
def test_hostile_text_ends_in_a_verdict(text):
    assert GRADER.grade(text, GOLD).outcome in (Outcome.UNPARSED, Outcome.WRONG)


def test_limits():
    numbers, value = evaluate("(" * MAX_DEPTH + "5" + ")" * MAX_DEPTH)
    assert (numbers, value) == ([5], 5)
    with pytest.raises(ExpressionError, match="nested"):
        evaluate("(" * (MAX_DEPTH + 1) + "5" + ")" * (MAX_DEPTH + 1))
    with pytest.raises(ExpressionError, match="digits"):
        evaluate("1" * (MAX_DIGITS + 1))
    longest = "1+" * (MAX_CHARS // 2 - 1) + "11"
    assert len(longest) == MAX_CHARS
    assert evaluate(longest)[1] == MAX_CHARS // 2 - 1 + 11
    with pytest.raises(ExpressionError, match="longer"):
        evaluate(longest + "1")


def python_evaluate(text):
    """By Python's own parser: (numbers, value), "zero" for a division by zero, None if it is not an expression of the game."""

    def walk(node):
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        a, b = walk(node.left), walk(node.right)
        match node.op:
            case ast.Add():
                return a + b
            case ast.Sub():
                return a - b
            case ast.Mult():
                return a * b
            case _:
                return a / b

    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        return None
    allowed = (ast.BinOp, ast.Constant, ast.Add, ast.Sub, ast.Mult, ast.Div)
    if not all(isinstance(node, allowed) for node in ast.walk(tree)):
        return None
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    numbers = sorted(node.value for node in constants)
    try:
        return numbers, walk(tree)
    except ZeroDivisionError:
        return numbers, None


PIECES = st.sampled_from([*"0123456789+-*/()", "12", "(1+2)", "(3-3)", "*4", "/5", " "])


@given(st.lists(PIECES, min_size=1, max_size=12).map("".join).filter(lambda t: t.strip() and "00" not in t))
def test_accepts_what_pythons_parser_accepts_to_the_same_value(text):
    expected = python_evaluate(text.strip())
    if expected is None or re.search(r"\d{10}", text):
        with pytest.raises(ExpressionError):
            evaluate(text)
    else:
        numbers, value = evaluate(text)
        assert (sorted(numbers), value) == expected


EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
    max_leaves=6,
)


@given(EXPRESSIONS)
def test_nested_expressions_have_their_value(text):
    numbers, value = evaluate(text)
    assert (sorted(numbers), value) == python_evaluate(text)
    if value is not None and value.denominator == 1:
        assert GRADER.grade(text, {"numbers": numbers[::-1], "target": int(value)}).outcome is Outcome.CORRECT
        assert GRADER.grade(text, {"numbers": numbers, "target": int(value) + 1}).outcome is Outcome.WRONG
        assert GRADER.grade(text, {"numbers": [*numbers, 1], "target": int(value)}).outcome is Outcome.WRONG


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict(text):
    assert GRADER.grade(text, GOLD).outcome in (Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSED)


@pytest.mark.parametrize(
    "gold",
    [
        None,
        46,
        "46",
        {},
        {"numbers": [], "target": 1},
        {"numbers": "123", "target": 1},
        {"numbers": [1.0], "target": 1},
        {"numbers": [True], "target": 1},
        {"numbers": [-1], "target": 1},
        {"numbers": [1]},
        {"numbers": [1], "target": "1"},
        {"numbers": [1], "target": True},
    ],
)
def test_a_bad_gold_answer_is_never_paid(gold):
    assert GRADER.check_gold(gold)
    assert GRADER.grade("1", gold).outcome is Outcome.BAD_GOLD


def test_a_good_gold_answer():
    assert GRADER.check_gold(GOLD) is None
    assert GRADER.check_gold({"numbers": (1, 2), "target": -1}) is None


def test_protocol():
    assert isinstance(GRADER, Grader)
    assert GRADER.isolated is False
    assert pickle.loads(pickle.dumps(GRADER)).grade("3*7+25", GOLD).reward == 1
