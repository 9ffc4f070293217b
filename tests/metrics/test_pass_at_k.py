import math
import statistics
from fractions import Fraction
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aer_lightning.algorithms.pass_at_k import pass_at_k_per_problem
from aer_lightning.errors import ConfigError
from aer_lightning.metrics import PassAtK, pass_at_k


def exact(n, c, k):
    return 1 - Fraction(math.comb(n - c, k), math.comb(n, k))


def test_is_the_share_of_all_choices_of_k_with_a_right_one():
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                choices = list(combinations([True] * c + [False] * (n - c), k))
                share = sum(map(any, choices)) / len(choices)
                assert pass_at_k(torch.tensor([c]), torch.tensor([n]), k).item() == pytest.approx(share, abs=1e-6)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, min(n, 600)))))
def test_keeps_its_precision_for_many_samples(ncK):
    n, c, k = ncK
    value = pass_at_k_per_problem(torch.tensor([c]), torch.tensor([n]), k).item()
    assert value == pytest.approx(float(exact(n, c, k)), rel=1e-10, abs=0)


def test_extremes():
    assert pass_at_k_per_problem(torch.tensor([1]), torch.tensor([10**9]), 1).item() == pytest.approx(1e-9, rel=1e-10)
    assert pass_at_k(torch.tensor([0]), torch.tensor([5]), 5).item() == 0
    assert pass_at_k(torch.tensor([1]), torch.tensor([5]), 5).item() == 1


def test_problems_with_different_numbers_of_samples():
    n, c = [4, 8, 16, 5], [1, 0, 7, 5]
    expected = sum(exact(*x, 3) for x in zip(n, c, strict=True)) / 4
    assert pass_at_k(torch.tensor(c), torch.tensor(n), 3).item() == pytest.approx(float(expected), rel=1e-6)


def test_batches_add_up_and_reset_forgets():
    c, n = torch.tensor([0, 1, 2, 3, 4, 4]), torch.full((6,), 4)
    metric = PassAtK(2)
    metric.update(c[:1], n[:1])
    metric.update(c[1:], n[1:])
    assert metric.compute() == pass_at_k(c, n, 2)
    metric.reset()
    metric.update(c[5:], n[5:])
    assert metric.compute() == 1


def test_groups():
    metric = PassAtK(2, num_groups=3)
    metric.update(torch.tensor([0, 1]), torch.tensor([4, 4]), torch.tensor([0, 2]))
    metric.update(torch.tensor([4]), torch.tensor([4]), torch.tensor([0]))
    value = metric.compute()
    assert value[0] == 0.5
    assert value[1].isnan()
    assert value[2] == 0.5


def test_standard_error_is_that_of_the_mean_over_problems():
    c, n = [0, 1, 5, 3, 8], [8] * 5
    metric = PassAtK(2, standard_error=True)
    metric.update(torch.tensor(c), torch.tensor(n))
    mean, error = metric.compute()
    values = [float(exact(8, x, 2)) for x in c]
    assert mean.item() == pytest.approx(statistics.mean(values), rel=1e-6)
    assert error.item() == pytest.approx(statistics.stdev(values) / 5**0.5, rel=1e-6)
    metric.reset()
    metric.update(torch.tensor([1]), torch.tensor([8]))
    assert metric.compute()[1].isnan()  # one problem says nothing about the spread


def test_standard_error_of_equal_values_is_zero():
    metric = PassAtK(3, standard_error=True)
    metric.update(torch.full((1000,), 1), torch.full((1000,), 7))
    assert metric.compute()[1].item() == pytest.approx(0, abs=1e-7)


def test_more_tries_than_samples_are_refused():
    with pytest.raises(ConfigError, match=r"pass@5 needs at least 5 samples of every problem, but one has 4"):
        pass_at_k(torch.tensor([1, 1]), torch.tensor([8, 4]), 5)
    with pytest.raises(ConfigError, match="pass@5"):
        PassAtK(5).update(torch.tensor([1]), torch.tensor([4]))


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_k_must_be_a_positive_integer(k):
    with pytest.raises(ConfigError, match="k must be"):
        PassAtK(k)
    with pytest.raises(ConfigError, match="k must be"):
        pass_at_k(torch.tensor([1]), torch.tensor([4]), k)


@pytest.mark.parametrize(("correct", "samples"), [([5], [4]), ([-1], [4]), ([0], [0]), ([1, 1], [4]), ([[1]], [[4]])])
def test_impossible_counts_are_refused(correct, samples):
    with pytest.raises(ConfigError, match="num_correct"):
        pass_at_k(torch.tensor(correct), torch.tensor(samples), 1)


def test_groups_and_num_groups_belong_together():
    one = torch.tensor([1])
    with pytest.raises(ConfigError, match="groups"):
        PassAtK(1).update(one, one, one)
    with pytest.raises(ConfigError, match="groups"):
        PassAtK(1, num_groups=2).update(one, one)
    with pytest.raises(ConfigError, match=r"groups must lie in \[0, 2\)"):
        PassAtK(1, num_groups=2).update(one, one, torch.tensor([2]))
    with pytest.raises(ConfigError, match="groups has shape"):
        PassAtK(1, num_groups=2).update(one, one, torch.tensor([0, 1]))
    with pytest.raises(ConfigError, match="num_groups"):
        PassAtK(1, num_groups=0)
