import pytest

from aer_lightning.data.rewards import structure as shape


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("1, 2", ["1", "2"]),
        ("1 and 2", ["1", "2"]),
        (r"1 \text{ or } 2", ["1", "2"]),
        ("19, 46, and 82", ["19", "46", "82"]),
        ("(1,2)", ["(1,2)"]),
        ("(1,2),(3,4)", ["(1,2)", "(3,4)"]),
        ("(11,7)or(7,11)", ["(11,7)", "(7,11)"]),
        ("a=1,b=2;a=3,b=4", ["a=1,b=2", "a=3,b=4"]),
        (r"1 \pm 2", ["1 + 2", "1 - 2"]),
        (r"\pm 3", ["3", "- 3"]),
        (r"f(x,y)", ["f(x,y)"]),
        (r"\begin{pmatrix}1,2\end{pmatrix}", [r"\begin{pmatrix}1,2\end{pmatrix}"]),
        ("orange", ["orange"]),
        (r"\{1,2\}", [r"\{1,2\}"]),
    ],
)
def test_lists(text, items):
    assert shape.split_list(text) == items


def test_bracketed():
    assert shape.bracketed("[0, 1)") == shape.Bracketed("[", ")", ("0", "1"))
    assert shape.bracketed(r"\{1, 2\}") == shape.Bracketed(r"\{", r"\}", ("1", "2"))
    assert shape.bracketed(r"\begin{pmatrix}1\\2\end{pmatrix}").items == ("1", "2")
    assert shape.bracketed("(1)") is None
    assert shape.bracketed("(1,2)+(3,4)") is None
    assert shape.bracketed("f(1,2)") is None


def test_chains():
    assert shape.chain("x = 1") == shape.Chain(("x", "1"), (False,))
    assert shape.chain(r"x = \frac{1}{3} \approx 0.33") == shape.Chain(("x", r"\frac{1}{3}", "0.33"), (False, True))
    assert len(shape.chain(r"x \le 1").members) == len(shape.chain("x != 1").members) == len(shape.chain(r"\sum_{i=1}^{3} i").members) == 1


@pytest.mark.parametrize("name", ["x", "x_1", "f(2)", "(p, q)", r"\angle ABC", r"\frac{NO}{BO}", "|AB|", "x+y", r"\theta"])
def test_names(name):
    assert shape.is_name(name)


@pytest.mark.parametrize("text", ["1", "2x", "11a+c", "a^2+b", r"\frac{1}{2}", r"\sqrt{2}", ""])
def test_what_is_no_name(text):
    assert not shape.is_name(text)


def test_ratios_times_unions_and_memberships():
    assert shape.ratio("7:32") == ["7", "32"]
    assert shape.ratio(r"12:30 \text{ PM}") == ["12", "30"]
    assert shape.union(r"(0,1) \cup (2,3)") == ["(0,1)", "(2,3)"]
    assert shape.without_membership(r"x \in [0,1]") == "[0,1]"
    assert shape.is_relation("x<2")
    assert not shape.is_relation("(x<2)")
    assert shape.unwrap("((x = 5))") == "x = 5"
    assert shape.unwrap("(1, 2)") == "(1, 2)"
