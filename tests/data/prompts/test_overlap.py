import pytest

from aer_lightning.data.prompts.overlap import OverlapReport, check_overlap, find_duplicates, find_overlap, normalise_problem

SAME = [
    ("What is $x+1$?", "what is x + 1"),
    ("Find  the\nvalue of \\(x\\).", "Find the value of $x$"),
    ("\\dfrac{1}{2}", "\\frac{1}{2}"),
    ("\\left( 1, 2 \\right)", "(1,2)"),
    ("It costs 1,000,000 dollars.", "It costs 1000000 dollars"),
    ("Janet\u2019s ducks", "Janet's ducks"),
    ("\uff11\uff12 apples", "12 apples"),
    ("5 \\text{ miles}", "5 miles"),
    ("a\\,b\\quad c", "abc"),
    ("Stra\u00dfe", "STRASSE"),
]
DIFFERENT = [
    ("x+1", "x-1"),
    ("x^2", "x2"),
    ("1.5 miles", "15 miles"),
    ("(1,5)", "(15)"),
    ("(1, 500)", "(1500)"),
    ("3 eggs", "4 eggs"),
    ("n!", "m!"),
    ("\\frac{1}{2}", "\\frac{2}{1}"),
    ("-3", "3"),
    ("\\leftarrow", "arrow"),
    ("a < b", "a > b"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_copies_are_equal(a, b):
    assert normalise_problem(a) == normalise_problem(b)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_other_problems_stay_different(a, b):
    assert normalise_problem(a) != normalise_problem(b)


def test_normalising_twice_changes_nothing_more():
    for pair in SAME + DIFFERENT:
        for text in pair:
            once = normalise_problem(text)
            assert normalise_problem(once) == once


def test_find_duplicates_and_overlap():
    train = [("a", "One?"), ("b", "two"), ("c", "ONE"), ("d", "Two!"), ("e", "one"), ("f", "three")]
    assert find_duplicates(train) == [("a", "c", "e"), ("b", "d")]
    assert find_duplicates([]) == []
    held_out = [("x", "three."), ("y", "four"), ("z", "Two"), ("w", "two")]
    assert find_overlap(train, held_out) == [("b", "z"), ("b", "w"), ("d", "z"), ("d", "w"), ("f", "x")]


def test_report():
    train = [("a", "One?", "1"), ("b", "two", "2"), ("c", "ONE", "1"), ("d", "Two!", "3")]
    report = check_overlap(train, {"exam": [("x", "one")], "other": [("y", "five")]})
    assert report.duplicates == [("a", "c"), ("b", "d")]
    assert report.conflicts == [("b", "d")]
    assert report.overlaps == {"exam": [("a", "x"), ("c", "x")], "other": []}
    assert not report.clean
    assert report.lines() == [
        "2 of 4 training problems repeat another one: a = c; b = d",
        "1 repeated problems have different answers: b = d",
        "1 problems of exam are in the training data: a = x; c = x",
    ]
    assert report.lines(examples=1)[0].endswith("a = c; and 1 more")
    assert check_overlap(train[:2]) == OverlapReport(2)
    assert check_overlap(train[:2]).clean
    assert check_overlap(train[:2]).lines() == []
