import warnings

import pytest
from echoes import ECHOES, HONEST, REPEATED

from aer_lightning.data.rewards import Grade, MathGrader, Outcome, Verifier
from aer_lightning.data.rewards.countdown import CountdownGrader
from aer_lightning.data.rewards.echo import repeats_only, warn_of_echoes, watch, without_echo

MODES = ("auto", "boxed", "final_answer", "last_number")


@pytest.mark.parametrize(("gold", "completion"), ECHOES)
def test_what_was_asked_is_no_answer_in_any_mode(gold, completion):
    for mode in MODES:
        grade = MathGrader(extract=mode).grade(completion, gold)
        assert grade.outcome in (Outcome.WRONG, Outcome.UNPARSED), (mode, grade)


@pytest.mark.parametrize(("gold", "completion"), HONEST)
def test_a_computed_number_is(gold, completion):
    grade = MathGrader().grade(completion, gold)
    assert grade.outcome is Outcome.CORRECT, grade


def test_the_benchmark_habit_comes_back_on_request():
    paid = [completion for gold, completion in ECHOES if MathGrader(evaluated=False).grade(completion, gold).reward]
    assert {"8 + 6", r"\boxed{8+6}", "2^3", r"\boxed{\frac{6}{8}}"} <= set(paid)


@pytest.mark.parametrize(("gold", "prompt", "completion"), REPEATED)
def test_a_number_of_a_repeated_prompt_is_no_answer(gold, prompt, completion):
    grade = MathGrader().grade(completion, gold, prompt)
    assert grade.outcome in (Outcome.WRONG, Outcome.UNPARSED), grade
    assert MathGrader().grade(f"{completion} so the answer is {gold}", gold, prompt).outcome is Outcome.CORRECT


def test_a_root_is_a_number_unless_the_prompt_names_what_is_under_it():
    for completion in (r"The answer is $\sqrt{16}$", r"\boxed{\sqrt{16}}", r"\boxed{x = \sqrt{16} \text{ cm}}"):
        assert MathGrader().grade(completion, "4").outcome is Outcome.CORRECT
        assert MathGrader().grade(completion, "4", "The area of a square is four times four.").outcome is Outcome.CORRECT
        assert MathGrader().grade(completion, "4", "What is the square root of 16?").outcome is Outcome.WRONG
    assert MathGrader().grade(r"\boxed{\sqrt{17}}", "4").outcome is Outcome.WRONG


@pytest.mark.parametrize("completion", ["5", r"\boxed{5}", "The answer is 5.", "10 minus 5 is 5", "It is 5", "x = 5"])
def test_a_computed_number_that_the_prompt_has_too_is_an_answer(completion):
    assert MathGrader().grade(completion, "5", "What is 10 minus 5?").outcome is Outcome.CORRECT


def test_the_prompt_reaches_the_grader_through_the_worker_processes():
    with Verifier(MathGrader(), workers=1) as verifier:
        gold, prompt, completion = REPEATED[0]
        grades = verifier.grade([(completion, gold, prompt), ("5", gold, prompt)])
        assert [g.reward for g in grades] == [0.0, 1.0]
        assert verifier.grade([("5", "5")])[0].reward == 1.0


def test_without_echo():
    assert without_echo("a b c d", "x b c y", least=2) == "a \n d"
    assert without_echo("a b c d", "x b c y", least=3) == "a b c d"
    assert without_echo("", "a b c", least=1) == "" and without_echo("a", "", least=1) == "a"
    assert without_echo("one two three one two three", "one two three", least=3).split() == []


def test_repeats_only():
    assert repeats_only("8 + 6", "8 + 6 is") is True
    assert repeats_only("8 + 6", "14") is False
    assert repeats_only("8 + 6", "fourteen") is None


def test_a_run_that_pays_for_echoes_is_warned_of():
    echo, honest, word = ("8 + 6", "8 + 6 you can"), ("8 + 6", "14"), ("Which day?", "Monday")
    with pytest.warns(UserWarning, match=r"3 of 5 rewarded completions contain no number beyond the prompt's.*'8 \+ 6 you can'"):
        assert warn_of_echoes([echo] * 3 + [honest] * 2 + [word] * 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert warn_of_echoes([echo] * 2 + [honest] * 2) is None
        assert warn_of_echoes([echo] * 3) is None
        assert warn_of_echoes([word] * 9) is None


class PaysAll:
    isolated = False

    def check_gold(self, answer):
        return None

    def grade(self, completion, answer):
        return Grade(Outcome.CORRECT, completion)


class PaysExpressions(PaysAll):
    answers_from_prompt = True


def test_a_batch_is_watched_unless_answers_are_made_of_the_prompt():
    items = [("8 + 6", "14", "What is 8 + 6?")] * 8
    grades = [Grade(Outcome.CORRECT)] * 8
    with pytest.warns(UserWarning, match="8 of 8 rewarded completions"):
        watch(PaysAll(), items, grades)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch(PaysExpressions(), items, grades)
        watch(PaysAll(), items, [Grade(Outcome.WRONG, score=0.5)] * 8)
    assert CountdownGrader.answers_from_prompt
