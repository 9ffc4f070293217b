"""The entropy bonus and the mask of highest entropies, against loops."""

import numpy as np
import pytest
import torch

from aer_lightning.algorithms.objectives import ClipObjective, EntropyScope, LossInputs, entropy_bonus, finish_metrics, peak_entropy_mask
from aer_lightning.errors import ConfigError

RNG = np.random.default_rng(0)
B, T = 5, 6
MASK = np.arange(T)[None] < np.array([6, 1, 4, 3, 2])[:, None]
PLACES = [(i, t) for i in range(B) for t in range(T) if MASK[i, t]]


def test_entropy_bonus_is_a_weighted_sum_with_its_gradient():
    entropy = torch.tensor(RNG.uniform(0, 2, (B, T)), requires_grad=True)
    coefficient = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    bonus = entropy_bonus(entropy, torch.tensor(MASK), coefficient, 50)
    bonus.backward()
    expected = sum(coefficient[i].item() * entropy[i, t].item() for i, t in PLACES) / 50
    assert bonus.item() == pytest.approx(expected)
    torch.testing.assert_close(entropy.grad, torch.tensor(MASK) * coefficient[:, None] / 50)
    halves = [
        entropy_bonus(entropy[rows], torch.tensor(MASK)[rows], coefficient[rows], 50).item() for rows in (slice(0, 2), slice(2, None))
    ]
    assert sum(halves) == pytest.approx(bonus.item(), abs=1e-15)


def loop_peaks(entropy, mask, quantile):
    chosen = np.zeros_like(mask)
    for i in range(len(mask)):
        own = [entropy[i, t] for t in range(mask.shape[1]) if mask[i, t]]
        for t in range(mask.shape[1]):
            chosen[i, t] = mask[i, t] and bool(own) and entropy[i, t] > np.quantile(own, quantile)
    return chosen


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.5, 0.8, 0.99])
def test_peaks_are_above_the_quantile_of_their_own_response(quantile):
    entropy = RNG.uniform(0, 2, (B, T))
    padded = torch.tensor(np.where(MASK, entropy, np.nan))
    chosen = peak_entropy_mask(padded, torch.tensor(MASK), quantile)
    assert (chosen.numpy() == loop_peaks(entropy.astype(np.float32), MASK, quantile)).all()
    for row, n in zip(chosen.sum(1).tolist(), MASK.sum(1), strict=True):
        assert row == n - 1 - int(quantile * (n - 1))
    split = [peak_entropy_mask(padded[rows], torch.tensor(MASK)[rows], quantile) for rows in (slice(0, 2), slice(2, B))]
    assert torch.equal(torch.cat(split), chosen), "a choice of the response, not of the micro-batch"


def test_peaks_of_nothing_and_of_equal_entropies():
    assert not peak_entropy_mask(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), 0.5).any()
    assert not peak_entropy_mask(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool), 0.5).any()
    with pytest.raises(ConfigError, match=r"^quantile: "):
        peak_entropy_mask(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), 1.0)


def clip_inputs(entropy=None):
    return LossInputs(
        logprob=torch.tensor(RNG.normal(-1, 0.4, (B, T)), requires_grad=True),
        old_logprob=torch.full((B, T), -1.0, dtype=torch.float64),
        advantage=torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0], dtype=torch.float64),
        mask=torch.tensor(MASK),
        num_tokens=50,
        num_sequences=B,
        max_tokens=T,
        entropy=entropy,
    )


def test_the_policy_loss_can_be_kept_to_the_tokens_of_highest_entropy():
    entropy = torch.tensor(RNG.uniform(0, 2, (B, T)))
    inputs = clip_inputs(entropy)
    loss, metrics = ClipObjective(entropy_quantile=0.8)(inputs)
    loss.backward()
    peaks = loop_peaks(entropy.float().numpy(), MASK, 0.8)
    expected = 0.0
    for i, t in PLACES:
        a, r = inputs.advantage[i].item(), np.exp(inputs.logprob[i, t].item() + 1.0)
        active = peaks[i, t] and not (r > 1.2 if a > 0 else r < 0.8)
        assert inputs.logprob.grad[i, t].item() == pytest.approx(-a * r / 50 if active else 0.0, abs=1e-12)
        expected -= peaks[i, t] * min(r * a, min(max(r, 0.8), 1.2) * a) / 50
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert finish_metrics(metrics)["entropy_selected"] == pytest.approx(peaks.sum() / len(PLACES))
    with pytest.raises(ValueError, match=r"LossInputs\.entropy"):
        ClipObjective(entropy_quantile=0.8)(clip_inputs())
    with pytest.raises(ConfigError, match=r"^entropy_quantile: "):
        ClipObjective(entropy_quantile=1.0)


def test_a_scope_goes_through_a_batchs_scalars_and_says_what_part_is_asked_for():
    for scope, options in (
        (EntropyScope(), {}),
        (EntropyScope(top_share=0.6), {"entropy_top_share": 0.6}),
        (EntropyScope(top_p=0.8, quantile=0.5), {"entropy_top_p": 0.8}),
    ):
        assert EntropyScope.of(scope.scalars() | {"zeta": 1.0}) == scope
        assert scope.top() == options and scope.whole == (scope == EntropyScope())
    entropy, mask = torch.tensor(RNG.uniform(0, 2, (B, T))), torch.tensor(MASK)
    assert torch.equal(EntropyScope(top_p=0.8).mask(entropy, mask), mask)
    assert torch.equal(EntropyScope(quantile=0.5).mask(entropy, mask), peak_entropy_mask(entropy, mask, 0.5))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"top_share": 0.0}, "top_share"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_p": 0.5, "top_share": 0.5}, "top_p"),
        ({"quantile": 1}, "quantile"),
    ],
)
def test_impossible_scopes_are_named(options, name):
    with pytest.raises(ConfigError, match=rf"^{name}: "):
        EntropyScope(**options)
