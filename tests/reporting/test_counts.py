import json
from math import comb

import pytest

from aer_lightning.errors import DataError
from aer_lightning.reporting.counts import Problem, distinct_per_problem, pass_at_ks, powers_of_two, read_evaluation


def test_last_and_first_evaluation_are_kept(make_run):
    counts = read_evaluation(make_run(correct=[8, 4, 1, 0]))["countdown"]
    assert [p.correct for p in counts.problems] == [8, 4, 1, 0] and counts.step == 10
    assert [p.correct for p in counts.initial] == [1, 0, 0, 0]
    assert counts.labels() == ["2 numbers", "3 numbers"]


def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(make_run):
    problems = read_evaluation(make_run(correct=[8, 4, 1, 0]))["countdown"].problems
    found = pass_at_ks(problems, [1, 2, 8, 32])
    expected = {k: sum(1 - comb(8 - c, k) / comb(8, k) for c in (8, 4, 1, 0)) / 4 for k in (1, 2, 8)}
    assert found == pytest.approx(expected, abs=1e-6), "k above n is left out"
    assert pass_at_ks([], [1]) == {}


def test_distinct_counts_problems_without_a_right_answer():
    assert distinct_per_problem([Problem("a", "", 8, 3, 3), Problem("b", "", 8, 0, 0)]) == 1.5


def test_ks():
    assert powers_of_two(64) == [1, 2, 4, 8, 16, 32, 64] and powers_of_two(20) == [1, 2, 4, 8, 16, 20] and powers_of_two(1) == [1]


def test_a_problem_written_twice_counts_once(tmp_path):
    rows = [{"step": 5, "source": "s", "id": "a", "n": 4, "correct": c} for c in (1, 3)]
    (tmp_path / "evaluation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [p.correct for p in read_evaluation(tmp_path)["s"].problems] == [3]


def test_no_file_is_no_counts(tmp_path):
    assert read_evaluation(tmp_path) == {}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "not a line"),
        ('{"step": 1, "source": "s", "id": "a", "n": 4}', "no field 'correct'"),
        ('{"step": 1, "source": "s", "id": "a", "n": 2, "correct": 3}', "3 of 2"),
    ],
)
def test_malformed_lines_are_named(tmp_path, line, what):
    good = '{"step": 1, "source": "s", "id": "a", "n": 4, "correct": 0}'
    (tmp_path / "evaluation.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(DataError, match=rf"evaluation\.jsonl:2: .*{what}"):
        read_evaluation(tmp_path)
