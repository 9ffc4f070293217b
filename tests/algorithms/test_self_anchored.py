"""SIREN's coefficient against the square that its source adds to the loss."""

import numpy as np
import pytest
import torch

from aer_lightning.algorithms.objectives import entropy_bonus, peak_entropy_mask
from aer_lightning.algorithms.self_anchored import SelfAnchoredController
from aer_lightning.errors import ConfigError


@pytest.mark.parametrize("anchor", [0.3, 2.0])
def test_its_bonus_has_the_gradient_of_the_square(anchor):
    """Responses of 11 tokens, of which the 0.8 quantile leaves exactly 2: the mask's share is then 2 / 11, as the factor has to say."""
    rng = np.random.default_rng(0)
    entropy = torch.tensor(rng.uniform(0.1, 1.5, (4, 11)), requires_grad=True)
    mask = torch.ones(4, 11, dtype=torch.bool)
    peaks = peak_entropy_mask(entropy, mask, 0.8)
    assert peaks.sum(1).tolist() == [2] * 4
    mean = entropy[peaks].mean()
    (expected,) = torch.autograd.grad(0.005 * (mean - anchor) ** 2, entropy)
    alpha = SelfAnchoredController(0.005, quantile=9 / 11).update(mean.item(), anchor)
    loss = -entropy_bonus(entropy, peaks, torch.full((4,), alpha), mask.sum().item())
    (gradient,) = torch.autograd.grad(loss, entropy)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-12)
    assert (alpha > 0) == (mean.item() < anchor)


@pytest.mark.parametrize(("options", "name"), [({"coefficient": 0.0}, "coefficient"), ({"quantile": 1.0}, "quantile")])
def test_impossible_options_are_named(options, name):
    with pytest.raises(ConfigError, match=rf"^{name}: "):
        SelfAnchoredController(**options)
