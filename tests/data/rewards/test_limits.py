import math

import pytest

from aer_lightning.data.rewards.limits import Caps, collapse_braces, digits_bound, nesting


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("10^{6}", 10**6),
        ("2^{3^{2}}", 2**9),
        ("2^3^2", 2**9),
        ("20!", math.factorial(20)),
        ("(2^{10})^{10}", 2**100),
        ("12345", 12345),
        (r"\frac{10^{50}}{3}", 10**50),
        ("3 \\cdot 4^{5}", 3 * 4**5),
        ("(5!)!", math.factorial(120)),
    ],
)
def test_the_bound_is_above_the_value_and_not_absurd(text, value):
    digits = math.log10(value)
    assert digits - 1e-9 <= digits_bound(text) <= 3 * digits + 40


@pytest.mark.parametrize(
    "text", ["9^9^9", "9^{9^{9^{9}}}", "(10^9)!", "2^{10^{10}}", "5!!!!", "2^" * 450 + "2", r"5^{\left(5^{\left(5^5\right)}\right)}"]
)
def test_towers_are_beyond_the_cap(text):
    assert digits_bound(text) > Caps().value_digits
    assert "number larger" in Caps().refuse(text)


def test_each_cap_refuses_what_is_above_it_and_nothing_else():
    caps = Caps(chars=10, nesting=2, literal_digits=4, value_digits=3, parts=3)
    assert "longer than 10" in caps.refuse("x" * 11)
    assert caps.refuse("x" * 10) is None
    assert "nested" in caps.refuse("(((1)))")
    assert caps.refuse("((1))") is None
    assert "longer than 4 digits" in caps.refuse("12345")
    assert caps.refuse("999") is None
    assert "10^3" in caps.refuse("10^{4}")
    assert "parts" in caps.refuse("1,2,3,4")
    assert caps.refuse("1,2,3") is None


def test_nesting():
    assert (nesting("a"), nesting("({[a]})"), nesting(")("), nesting("()()")) == (0, 3, 1, 1)


@pytest.mark.parametrize(
    ("text", "collapsed"),
    [
        ("{{x}}", "{x}"),
        ("{{{x}}}", "{x}"),
        (r"\frac{{1}}{2}", r"\frac{1}{2}"),
        ("{a}{b}", "{a}{b}"),
        (r"\{\{x\}\}", r"\{\{x\}\}"),
        ("{{a}b}", "{{a}b}"),
        ("}{", "}{"),
    ],
)
def test_braces_around_braces_are_dropped(text, collapsed):
    assert collapse_braces(text) == collapsed


def test_a_thousand_braces_are_no_nesting():
    assert collapse_braces("{" * 50_000 + "1" + "}" * 50_000) == "{1}"
