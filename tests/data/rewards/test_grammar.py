import pytest

from aer_lightning.data.rewards.grammar import explicit, separate_names, why_not


@pytest.mark.parametrize(
    "text",
    [
        r"\frac{x+1}{2}",
        r"\log_{2} 3",
        r"\log_2 3",
        "x_1+x_2",
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        r"3\frac{1}{2}",
        r"\sum_{i=1}^{5} i",
        r"|x|",
        r"\{1,2\}",
        "5!",
        "x = 3",
    ],
)
def test_ordinary_mathematics_passes(text):
    assert why_not(text) is None


@pytest.mark.parametrize(
    "text",
    [
        r"\phantom{4}2",
        r"\newline 42",
        "4 2",
        "4{2}",
        "12 3",
        "42_{43}",
        "1&2",
        "x}",
        "{x",
        "f'",
        "42?",
        "42 @",
        r"1+\ldots+3",
        "[a=1=2]",
        r"\def\x{1}",
        "x # y",
        'a"b',
        r"\$5",
    ],
)
def test_what_the_parser_would_misread_is_refused(text):
    assert why_not(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6(7)", 42),
        ("(6)(7)", 42),
        ("-2(3)", -6),
        ("5-2(3)", -1),
        (r"2\binom{3}{1}", 6),
        (r"(2)\frac{1}{2}", 1),
        (r"3\frac{1}{2}", 3.5),
        (r"2\frac{9}{4}", 4.5),
        (r"2.5\frac{1}{2}", 1.25),
        ("2^{3}(4)", 32),
        ("12(10)", 120),
    ],
)
def test_numbers_side_by_side_are_multiplied_but_for_mixed_numbers(text, value):
    from aer_lightning.data.rewards import symbolic

    assert float(symbolic.evaluate(text)) == value
    assert explicit(explicit(text)) == explicit(text)


def test_capital_and_small_letters_are_different_symbols():
    gold, pred = separate_names("R^2-r^2", "R+r")
    assert gold.replace("r", "") == "w^2-^2".replace("w", gold[0])
    assert gold[0] == pred[0] != "R"
    assert separate_names("R^2", "R") == ("R^2", "R")
    assert separate_names(r"\Delta d", r"\sin x")[0] == r"\Delta d"


def test_division_by_zero_and_arithmetic_with_infinity_are_refused():
    assert why_not(r"\frac{0}{0}") == why_not("x^2/0 + 1") == why_not(r"\frac{\sqrt{2}}{0}") == "division by zero"
    assert why_not(r"(2, \infty 6)") and why_not(r"(5, 6\infty)") and why_not(r"(2, \infty]")
    assert why_not(r"(-\infty, 0)") is None and why_not(r"\frac{1}{0.5}") is None and why_not("1/02") is None
