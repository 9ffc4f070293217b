import pytest

from aer_lightning.data.rewards.extract import extract


def parts(text, mode="auto"):
    found = extract(text, mode)
    return None if found is None else list(found.parts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{1}", ["1"]),
        (r"\boxed{a{b}c}", ["a{b}c"]),
        (r"\boxed{\{1\}}", [r"\{1\}"]),
        (r"\boxed{1} then \boxed{2}", ["2"]),
        (r"\boxed{1", None),
        (r"\boxed{1} \boxed{2", ["1"]),
        (r"\boxed{}", None),
        (r"\boxed{1} \boxed{}", ["1", ""]),
        (r"\fbox{3}", ["3"]),
        (r"\boxed 12", ["12"]),
        (r"\boxed\pi", [r"\pi"]),
        (r"\boxed{\boxed{1}}", [r"\boxed{1}"]),
        (r"\boxed{1} and \boxed{2}", ["1", "2"]),
        (r"\boxed{1}, \boxed{2}", ["1", "2"]),
        (r"\(\boxed{1}\) or \(\boxed{2}\)", ["1", "2"]),
        (r"\boxed{1}. So we get \boxed{2}", ["2"]),
        (r"\boxed{1}, \boxed{1}", ["1"]),
        (r"\boxed{1} or 2", ["1", "2"]),
        (r"\boxed{1} or so", ["1"]),
        (r"x = \boxed{1} \text{ and } y = \boxed{2}", ["1", "2"]),
        ("1", None),
        (r"\boxedness{1}", None),
    ],
)
def test_boxes(text, expected):
    assert parts(text, "boxed") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 5.", ["5"]),
        ("The answer is: $5$.", ["5"]),
        ("Final Answer: The largest $n$ is 34.", ["34"]),
        ("work #### 1,234", ["1,234"]),
        ("A: 7", ["7"]),
        ("answer is 1\nno, the answer is 2", ["2"]),
        ("The answer is 42 or 43.", ["42 or 43"]),
        ("The answer is (3, 4).", ["(3, 4)"]),
        ("The answer is $1$ and $2$.", ["1", "2"]),
        ("The answer is 5 apples.", ["5"]),
        ("Answer: 3x + 5", ["3x + 5"]),
        ("The answer is 28 percent.", ["28 percent"]),
        ("The answer is $28$ percent.", ["28%"]),
        ("The answer is Monday.", ["Monday"]),
        ("no answer here", None),
        ("answer is", None),
        ("The answer is 1.5.", ["1.5"]),
        ("**Answer**: 9", ["9"]),
        ("The answer is \\(\\frac{1}{2}\\).", [r"\frac{1}{2}"]),
        ("The answer is $5. I am sure", ["5"]),
    ],
)
def test_final_answers(text, expected):
    assert parts(text, "final_answer") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 then 2", ["2"]),
        ("about 1,234.5 in all", ["1,234.5"]),
        ("1.", ["1"]),
        ("x2y", None),
        ("2,74 left", ["2,74"]),
        ("-3 degrees", ["-3"]),
        ("1/2 of it", ["1/2"]),
        ("m² is 5", ["5"]),
        ("3 or 4 of them", ["3", "4"]),
        ("none", None),
    ],
)
def test_last_numbers(text, expected):
    assert parts(text, "last_number") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"the answer is 1, \boxed{2}", ["2"]),
        (r"\boxed{1}. The final answer is 2.", ["2"]),
        (r"\boxed{1}. The final answer is as above.", ["1"]),
        (r"\boxed{1}. The answer is 2.", ["1"]),
        ("we find $x = 3$ here", ["x = 3"]),
        ("costs $3 and earns $10 daily", ["10"]),
        ("", None),
        (r"it is \frac{3}{4} of it", [r"\frac{3}{4}"]),
    ],
)
def test_auto(text, expected):
    assert parts(text) == expected
