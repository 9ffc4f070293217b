from fractions import Fraction

import pytest

from aer_lightning.data.rewards.normalize import normalize
from aer_lightning.data.rewards.numbers import based_equal, numbers_equal, parse_based, parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("-42", -42),
        ("+42", 42),
        ("042", 42),
        ("4,200", 4200),
        ("4 200", 4200),
        ("1,234,567.5", Fraction("1234567.5")),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        (r"\frac{1}{3}", Fraction(1, 3)),
        (r"-\frac{1}{3}", Fraction(-1, 3)),
        (r"\frac{-1}{3}", Fraction(-1, 3)),
        ("2/4", Fraction(1, 2)),
        (r"3\frac{1}{2}", Fraction(7, 2)),
        (r"-3\frac{1}{2}", Fraction(-7, 2)),
        ("3 1/2", Fraction(7, 2)),
        ("2^{10}", 1024),
        ("10^3", 1000),
        ("-2^2", -4),
        (r"1.5\times 10^{3}", 1500),
        ("1e3", 1000),
        (r"0.\overline{36}", Fraction(4, 11)),
        (r"1.2\overline{3}", Fraction(37, 30)),
        ("(7)", 7),
        (r"\$5", 5),
        ("5 cm", 5),
        (r"5 \text{ million}", 5_000_000),
        (r"90^\circ", 90),
        (r"\frac{0.5}{2}", Fraction(1, 4)),
        ("9" * 900, int("9" * 900)),
        (r"\sqrt{16}", 4),
        (r"-\sqrt{0}", 0),
        (r"\sqrt[3]{27}", 3),
        (r"\sqrt{" + str(10**28 + 2 * 10**14 + 1) + "}", 10**14 + 1),
    ],
)
def test_values_are_exact(text, value):
    assert parse_number(normalize(text)).value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1/0",
        r"\frac{1}{0}",
        "1,2",
        "1,00",
        "12,345,6",
        "1 2",
        "--1",
        "1-2",
        r"\sqrt{15}",
        r"\sqrt[3]{16}",
        r"\sqrt{" + str(10**28 + 2 * 10**14) + "}",
        "5x",
        "42xy",
        "(1,2)",
        "10^{999999}",
        r"5 \text{ or } 6",
        "5!",
        "1.2.3",
        "NaN",
        "inf",
        "5 or more",
        "0x10",
        "1_000",
        "9" * 5000,
    ],
)
def test_what_is_no_single_number(text):
    assert parse_number(normalize(text)) is None


@pytest.mark.parametrize(
    ("gold", "pred", "same"),
    [
        ("1/3", "0.333333333333", True),
        ("1/3", "0.333333", False),
        ("1/3", "0.33333", False),
        ("1/3", "0.333334", False),
        ("2/3", "0.666666666667", True),
        ("2/3", "0.666666666666", True),
        ("2/3", "0.666666666668", False),
        ("-2/3", "-0.666666666666", True),
        ("-2/3", "-0.666666666668", False),
        ("5", "5.000001", False),
        ("5", "5.0000000", True),
        ("5.000001", "5", False),
        ("0.000001", "1/1000001", False),
        ("3.14159265", "3.141592653589", False),
        ("1.25", "1.250", True),
        ("1.25", "1.2500001", False),
        ("1/8", "0.125", True),
        ("1/8", "0.125000001", False),
        ("50\\%", "0.5", True),
        ("50\\%", "50", True),
        ("0.5", "50\\%", True),
        ("50", "5000\\%", False),
        ("50", "50\\%", True),
        ("1.5", "150\\%", True),
        ("1.5", "1.5\\%", True),
        ("0.5", "0.5\\%", False),
        ("5 cm", "5", True),
        ("5 cm", "5 \\text{ centimeters}", True),
        ("5 cm", r"5 \text{ m}^2", False),
        ("5 cm", r"5 \text{ m}", False),
        ("5 cm", "5 km", False),
        ("5 apples", "5 oranges", True),
    ],
)
def test_equality(gold, pred, same):
    assert numbers_equal(parse_number(normalize(gold)), parse_number(normalize(pred))) is same


@pytest.mark.parametrize(("text", "base", "value"), [("204_5", 5, 54), ("204_{5}", 5, 54), ("1A_{16}", 16, 26), ("0101_2", 2, 5)])
def test_based_numerals(text, base, value):
    based = parse_based(text)
    assert (based.base, int(based.digits, base)) == (base, value)
    assert based_equal(None, based, parse_number(str(value)), None)
    assert not based_equal(None, based, parse_number(str(value + 1)), None)


def test_a_base_is_compared():
    five, seven = parse_based("204_5"), parse_based("204_7")
    assert not based_equal(five, seven, None, None)
    assert based_equal(five, None, None, parse_number("204"))
    assert not based_equal(five, None, None, parse_number("54"))
    assert parse_based("209_5") is None
    assert parse_based("x_1") is None
