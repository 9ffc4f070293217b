import random

import pytest
import torch

from aer_lightning.errors import ConfigError
from aer_lightning.metrics import MajAtK, maj_at_k


def simulated(answers, correct, rng, times=4000):
    """Accuracy of a vote whose ties are really broken by a draw, every answer counted in turn."""
    right = {a for a, c in zip(answers, correct, strict=True) if c}
    wins = 0
    for _ in range(times):
        best, most = None, 0
        for answer in rng.sample(sorted({a for a in answers if a is not None}), k=len({a for a in answers if a is not None})):
            votes = sum(a == answer for a in answers)
            if votes > most:
                best, most = answer, votes
        wins += best in right
    return wins / times


def test_against_votes_with_drawn_ties():
    rng = random.Random(0)
    for _ in range(25):
        answers = [rng.choice(["1", "2", "3", None]) for _ in range(rng.randint(1, 6))]
        correct = [a == "1" or (a == "3" and len(answers) % 2 == 0) for a in answers]
        value = maj_at_k([answers], [correct], k=len(answers)).item()
        assert value == pytest.approx(simulated(answers, correct, rng), abs=0.04)


def test_majority_ties_and_silence():
    def maj(answers, *right, **options):
        return maj_at_k([answers], [[a in right for a in answers]], len(answers), **options).item()

    assert maj(["7", "7", "8"], "7") == 1
    assert maj(["7", "8", "8"], "7") == 0
    assert maj(["7", "8"], "7") == 0.5
    assert maj(["7", "8", "9"], "7", "9") == pytest.approx(2 / 3)
    assert maj(["7", None, None], "7") == 1  # silence does not vote
    assert maj([None, None], "7") == 0
    assert maj(["", "", "7"], "7") == 0  # an empty answer is an answer


def test_merging_lets_all_right_answers_vote_as_one():
    answers, correct = [["1/2", "0.5", "3", "3", "3", "2/4"]], [[True, True, False, False, False, True]]
    assert maj_at_k(answers, correct, 6) == 0
    assert maj_at_k(answers, correct, 6, merge_correct=True) == 0.5
    metric = MajAtK(6, merge_correct=True)
    metric.update(answers, correct)
    assert metric.compute() == 0.5


def test_more_samples_than_voters_make_several_votes():
    answers = [["1", "1", "2", "2", "2", "1", "1"]]
    correct = [[a == "1" for a in answers[0]]]
    assert maj_at_k(answers, correct, 3) == 0.5  # 112 is right, 221 is wrong, the rest is not used
    assert maj_at_k(answers, correct, 1).item() == pytest.approx(4 / 7)


def test_the_mean_over_problems_and_groups():
    answers, correct = [["1", "1"], ["2", "3"], ["4", "4"]], [[True, True], [True, False], [False, False]]
    assert maj_at_k(answers, correct, 2) == 0.5
    metric = MajAtK(2, num_groups=2)
    metric.update(answers[:1], correct[:1], torch.tensor([0]))
    metric.update(answers[1:], correct[1:], torch.tensor([1, 1]))
    assert metric.compute().tolist() == [1, 0.25]


def test_refusals():
    with pytest.raises(ConfigError, match="maj@3 needs at least 3 samples of every problem, but one has 2"):
        MajAtK(3).update([["1", "2"]], [[True, False]])
    with pytest.raises(ConfigError, match="k must be"):
        MajAtK(0)
    with pytest.raises(ConfigError, match="shape"):
        maj_at_k([["1"]], [[True, False]], 1)
    with pytest.raises(ConfigError, match="shape"):
        maj_at_k([["1"]], [], 1)
    with pytest.raises(ConfigError, match="at least one sample"):
        maj_at_k([[]], [[]], 1)
