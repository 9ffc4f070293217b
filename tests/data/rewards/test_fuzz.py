"""Properties of grading that hold for any text. A short run; ``python benchmarks/fuzz_verifier.py`` goes on for minutes."""

from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aer_lightning.data.rewards import MathGrader, Outcome, Verifier
from aer_lightning.data.rewards.extract import EXTRACT_MODES, extract
from aer_lightning.data.rewards.text import answer_region, clean

PIECE_LIST = (
    r"\boxed{ } { \frac \sqrt \text{or} \pm = \approx , ; 42 43 1/2 0.5 ^ _ ( ) [ ] \{ \} $ $$ \( \) \[ \] \infty x n! % \%"
    r" answer is : #### "
    r"</think> <think> or and \le \in \cup \begin{pmatrix} "
    r"\end{pmatrix} & \\ \left \right ½ ² ４ − | ' 9^9 !! \ldots i e \pi"
)
PIECES = PIECE_LIST.split(" ")
texts = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join),
    st.lists(st.sampled_from(PIECES), max_size=10).map(lambda pieces: rf"\boxed{{{''.join(pieces)}}}"),
)
integers = st.integers(-(10**9), 10**9)


def atoms():
    number = st.integers(1, 50).map(str)
    return st.one_of(number, st.sampled_from(["x", "y", r"\pi", r"\sqrt{2}", r"\frac{1}{3}", "2x", "0.25"]))


def grow(children):
    return st.one_of(
        st.tuples(children, children).map(lambda t: rf"\frac{{{t[0]}}}{{{t[1]}}}"),
        st.tuples(children, st.sampled_from(["+", "-", r" \cdot "]), children).map("".join),
        children.map(lambda e: rf"\left({e}\right)"),
        children.map(lambda e: rf"\sqrt{{{e}}}"),
        st.tuples(st.sampled_from(["x", "2", "(x+1)"]), st.integers(2, 5)).map(lambda t: f"{t[0]}^{{{t[1]}}}"),
    )


expressions = st.recursive(atoms(), grow, max_leaves=5)
answers = st.one_of(
    expressions,
    st.tuples(expressions, expressions).map(lambda t: f"({t[0]}, {t[1]})"),
    st.tuples(expressions, expressions).map(lambda t: rf"[{t[0]}, {t[1]})"),
    st.lists(st.integers(-99, 99), min_size=2, max_size=4, unique=True).map(lambda xs: ", ".join(map(str, xs))),
    expressions.map(lambda e: f"x = {e}"),
    st.sampled_from([r"\text{Monday}", "(C)", "12:30", r"(-\infty, 3] \cup (5, \infty)", "4210_5", "x > 3"]),
)
LIMITS = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], derandomize=True
)


@pytest.fixture(scope="module")
def verifier():
    with Verifier(MathGrader(), workers=2, timeout_s=20.0) as verifier:
        yield verifier


@LIMITS
@given(text=texts, mode=st.sampled_from(EXTRACT_MODES))
def test_extraction_never_fails_and_finds_text_of_the_completion(text, mode):
    region = answer_region(text)
    found = extract(region, mode)
    if found is not None:
        assert found.parts
        assert all(isinstance(part, str) for part in found.parts)
    assert clean(clean(text)) == clean(text)


@LIMITS
@given(completion=texts, gold=st.one_of(st.just("42"), answers, texts))
def test_grading_never_fails_and_is_deterministic(verifier, completion, gold):
    first, second = verifier.grade([(completion, gold)] * 2)
    assert first.outcome not in (Outcome.ERROR, Outcome.TIMEOUT), first
    assert (first.outcome, first.extracted, first.reason) == (second.outcome, second.extracted, second.reason)


@LIMITS
@given(answer=answers)
def test_an_answer_is_right_against_itself_however_it_is_boxed_and_spaced(verifier, answer):
    if verifier.check_golds([answer])[0] is not None:
        return
    spaced = answer.replace("+", " + ").replace(",", " , ")
    forms = [
        rf"\boxed{{{answer}}}",
        rf"So $\boxed{{ {answer} }}$.",
        rf"\fbox{{{answer}}}",
        rf"\boxed{{{spaced}}}",
        rf"\boxed{{\boxed{{{answer}}}}}",
    ]
    forms += [rf"The final answer is $\boxed{{{answer}}}$. I hope it is correct.", rf"The final answer is ${answer}$."]
    grades = verifier.grade([(form, answer) for form in forms])
    assert [g.outcome for g in grades] == [Outcome.CORRECT] * len(forms), list(zip(forms, grades, strict=True))


@LIMITS
@given(gold=integers, pred=integers, decorate=st.sampled_from(["{}", "x={}", r"\text{{about}}", "{}.0", r"\left({}\right)", "{:,}", "0{}"]))
def test_integers_are_equal_or_not(verifier, gold, pred, decorate):
    grade = verifier.grade([(rf"\boxed{{{decorate.format(pred)}}}", str(gold))])[0]
    if gold != pred:
        assert grade.reward == 0
    elif decorate not in ("0{}", r"\text{{about}}"):
        assert grade.reward == 1, grade


@LIMITS
@given(
    gold=st.fractions(-50, 50, max_denominator=40),
    pred=st.fractions(-50, 50, max_denominator=40),
    shape=st.sampled_from(
        [r"\frac{{{n}}}{{{d}}}", "{n}/{d}", r"\dfrac{{{n}}}{{{d}}}", r"-\frac{{{m}}}{{{d}}}", r"x = \frac{{{n}}}{{{d}}}"]
    ),
    same=st.booleans(),
)
def test_rationals_are_equal_as_fractions_are(verifier, gold, pred, shape, same):
    pred = gold if same else pred
    text = shape.format(n=pred.numerator, d=pred.denominator, m=-pred.numerator)
    if "--" in text or ("{-" in text and text.startswith("-")):
        return
    grade = verifier.grade([(rf"\boxed{{{text}}}", f"{gold.numerator}/{gold.denominator}")])[0]
    assert grade.reward == float(Fraction(pred) == gold), grade


@LIMITS
@given(
    right=st.integers(-500, 500),
    other=st.integers(-500, 500),
    join=st.sampled_from([" or ", ", ", "; ", r" \text{ or } ", " and ", r"\text{ and }"]),
)
def test_two_answers_for_one_are_a_hedge(verifier, right, other, join):
    if right == other:
        return
    forms = [rf"\boxed{{{right}{join}{other}}}", rf"\boxed{{{other}{join}{right}}}", rf"\boxed{{{right}}}{join}\boxed{{{other}}}"]
    assert [g.reward for g in verifier.grade([(form, str(right)) for form in forms])] == [0.0] * 3
