import pytest

from aer_lightning.data.rewards.normalize import closing, normalize, squash

SAME = [
    (r"\dfrac{1}{2}", r"\frac12"),
    (r"\tfrac 1 2", r"\frac{1}{2}"),
    (r"\left( 1, 2 \right)", "(1, 2)"),
    (r"32{,}349", r"32,\!349"),
    (r"50\%", "50 percent"),
    (r"90^\circ", r"90^{\circ}"),
    (r"\text{cm}", r"\mathrm{cm}"),
    (r"x \leq 2", r"x \le 2"),
    ("x != 3", r"x \neq 3"),
    (r"$5$", "5"),
    (r"\(5\)", "5."),
    ("**5**", "5"),
    (r"\sqrt5", r"\sqrt{5}"),
    ("{{5}}", "5"),
    (r"(1, +\infty)", r"(1,\infty)"),
    (r"\mbox{5}", "5"),
    (r"\\frac{1}{2}", r"\frac{1}{2}"),
    (r"a\,b", "a b"),
]
DIFFERENT = [
    ("5 3", "53"),
    ("5!", "5"),
    ("5!!", "5!"),
    ("x'", "x"),
    (r"5\%", "5"),
    (r"5\text{ or } 6", "5 6"),
    ("1,2", "12"),
    ("a<b", "a>b"),
    (r"a+\infty", r"a\infty"),
    ("-5", "5"),
    (r"5^\circ", "5"),
    ("[1,2]", "(1,2)"),
    (r"\text{not } 5", "5"),
    ("1.5", "15"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_the_same(one, other):
    assert squash(normalize(one)) == squash(normalize(other))


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_nothing_with_a_meaning_is_dropped(one, other):
    assert squash(normalize(one)) != squash(normalize(other))


@pytest.mark.parametrize("text", [text for pair in SAME + DIFFERENT for text in pair])
def test_normalising_twice_changes_nothing(text):
    assert normalize(normalize(text)) == normalize(text)


def test_matrix_rows_survive():
    assert normalize(r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}").count("\\\\") == 1


def test_closing():
    assert closing("[0,1)", 0) == 4
    assert closing(r"\{a\} b", 1) == 4
    assert closing("(a", 0) == -1
