import statistics

import pytest
import torch

from aer_lightning.errors import ConfigError
from aer_lightning.metrics import AvgAtK, avg_at_k, pass_at_k


def test_is_the_mean_accuracy_and_pass_at_1():
    c, n = torch.tensor([0, 3, 8, 5]), torch.tensor([8, 4, 8, 16])
    expected = statistics.mean(int(x) / int(y) for x, y in zip(c, n, strict=True))
    assert avg_at_k(c, n).item() == pytest.approx(expected, rel=1e-6)
    assert avg_at_k(c, n).item() == pytest.approx(pass_at_k(c, n, 1).item(), rel=1e-6)
    metric = AvgAtK(num_groups=2, standard_error=True)
    metric.update(c, n, torch.tensor([0, 1, 0, 1]))
    mean, error = metric.compute()
    assert mean.tolist() == pytest.approx([0.5, (3 / 4 + 5 / 16) / 2])
    assert error.tolist() == pytest.approx([statistics.stdev([0, 1]) / 2**0.5, statistics.stdev([3 / 4, 5 / 16]) / 2**0.5])


def test_k_fixes_the_number_of_samples():
    four = torch.tensor([4, 4])
    assert avg_at_k(torch.tensor([1, 3]), four, k=4) == 0.5
    for samples in (torch.tensor([4, 8]), torch.tensor([4, 3])):
        with pytest.raises(ConfigError, match=rf"avg@4 needs exactly 4 samples of every problem, but one has {int(samples[1])}"):
            AvgAtK(k=4).update(torch.tensor([1, 3]), samples)
    with pytest.raises(ConfigError, match="k must be"):
        AvgAtK(k=0)
