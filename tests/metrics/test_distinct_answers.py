import pytest
import torch

from aer_lightning.errors import ConfigError
from aer_lightning.metrics import DistinctAnswers, distinct_answers


def entropy(counts):
    return torch.distributions.Categorical(probs=torch.tensor(counts, dtype=torch.float64)).entropy().item()


ANSWERS = [["a", "b", "a", None], ["c", "c", "c", "c"], [None, None, None, None], ["d", "e", "f", "g"]]
CORRECT = [[True, True, True, False], [False] * 4, [False] * 4, [True, True, False, False]]


def test_share_of_different_answers():
    assert distinct_answers(ANSWERS).item() == pytest.approx((2 / 3 + 1 / 4 + 1) / 3)
    assert distinct_answers(ANSWERS, CORRECT).item() == pytest.approx((2 / 3 + 1) / 2)


def test_entropy_of_answers():
    expected = [entropy([2, 1]), 0.0, entropy([1, 1, 1, 1])]
    assert distinct_answers(ANSWERS, measure="entropy").item() == pytest.approx(sum(expected) / 3)
    assert distinct_answers(ANSWERS, CORRECT, "entropy").item() == pytest.approx((entropy([2, 1]) + entropy([1, 1])) / 2)


def test_class_does_as_the_function():
    for correct_only in (False, True):
        for measure in ("share", "entropy"):
            metric = DistinctAnswers(measure, correct_only)
            for i in range(4):
                metric.update(ANSWERS[i : i + 1], CORRECT[i : i + 1])
            assert metric.compute() == distinct_answers(ANSWERS, CORRECT if correct_only else None, measure)


def test_groups_without_a_counted_sample_have_no_value():
    metric = DistinctAnswers(num_groups=2)
    metric.update(ANSWERS[1:3], groups=torch.tensor([0, 1]))
    assert metric.compute()[0] == 0.25
    assert metric.compute()[1].isnan()


def test_refusals():
    with pytest.raises(ConfigError, match="measure"):
        DistinctAnswers("spread")
    with pytest.raises(ConfigError, match="correct_only"):
        DistinctAnswers(correct_only=True).update(ANSWERS)
    with pytest.raises(ConfigError, match="shape"):
        distinct_answers(ANSWERS, CORRECT[:2])
