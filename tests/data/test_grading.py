"""Grading runs while the engine still decodes, and changes neither order nor verdicts."""

import threading

import pytest

from aer_lightning.data.engines.base import Completion
from aer_lightning.data.grading import CHUNK, completions_as_they_end, generate_and_grade
from aer_lightning.data.rewards import Grade, Outcome


class Slow:
    """A verifier that says when it has graded."""

    class grader:
        isolated = True

    def __init__(self):
        self.graded, self.event = [], threading.Event()

    def grade(self, items):
        self.graded.append(len(items))
        self.event.set()
        return [Grade(Outcome.CORRECT if text == answer else Outcome.WRONG, text) for text, answer, _ in items]


def completion(i):
    return Completion([i], [0.0], "stop")


def test_verdicts_come_while_the_engine_decodes_and_in_the_order_of_the_requests():
    verifier, asked = Slow(), [(str(i % 3), "?") for i in range(2 * CHUNK)]

    def engine():
        for place in reversed(range(CHUNK, 2 * CHUNK)):
            yield place, completion(place)
        assert verifier.event.wait(10), "the first half is graded before the second has been decoded"
        for place in reversed(range(CHUNK)):
            yield place, completion(place)

    completions, texts, grades = generate_and_grade(engine(), lambda c: str(c.token_ids[0]), asked, verifier)
    assert [c.token_ids[0] for c in completions] == list(range(2 * CHUNK)) and texts[5] == "5"
    assert [g.outcome for g in grades] == [Outcome.CORRECT if i < 3 else Outcome.WRONG for i in range(2 * CHUNK)]
    assert len(verifier.graded) >= 2 and sum(verifier.graded) == 2 * CHUNK


def test_a_grader_in_this_process_follows():
    verifier = Slow()
    verifier.grader = type("Here", (), {"isolated": False})
    generate_and_grade(((i, completion(i)) for i in range(40)), lambda c: "", [("", "")] * 40, verifier)
    assert verifier.graded == [40]
    assert generate_and_grade((), str, [], verifier) == ([], [], [])


def test_a_fault_on_either_side_is_raised():
    class Broken(Slow):
        def grade(self, items):
            raise RuntimeError("verifier")

    with pytest.raises(RuntimeError, match="verifier"):
        generate_and_grade(((i, completion(i)) for i in range(40)), lambda c: "", [("", "")] * 40, Broken())

    def engine():
        yield 0, completion(0)
        raise RuntimeError("engine")

    with pytest.raises(RuntimeError, match="engine"):
        generate_and_grade(engine(), lambda c: "", [("", "")] * 2, Slow())


def test_an_engine_that_does_not_stream():
    class Whole:
        def generate(self, requests, sampling):
            return [completion(i) for i in range(len(requests))]

    assert [i for i, _ in completions_as_they_end(Whole(), [1, 2], None)] == [0, 1] and list(
        completions_as_they_end(Whole(), [], None)
    ) == []
