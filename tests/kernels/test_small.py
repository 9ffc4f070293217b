"""The way for small vocabularies: as exact as the general one, taken where it should be, and left where it is not exact."""

from __future__ import annotations

import pytest
import torch
from settings import IGNORE, close, compute, relatively_close
from test_memory import Allocations

from aer_lightning.errors import DataError
from aer_lightning.kernels import linear_token_stats, reference, small


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the calls that went this way."""
    seen: list[int] = []
    real = small.SmallStatistics.apply
    monkeypatch.setattr(small.SmallStatistics, "apply", lambda logits, *rest: (seen.append(len(logits)), real(logits, *rest))[1])
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("offset", [0.0, 3000.0])
@pytest.mark.parametrize("bias", [False, True])
def test_exact(dtype: torch.dtype, temperature: float, offset: float, bias: bool, taken: list[int]) -> None:
    """Rows from even to certain, of the target and of another token."""
    torch.manual_seed(0)
    rows, vocabulary = 24, 48
    sharpness = torch.logspace(-1, 2, rows)[:, None]
    logits = (sharpness * torch.randn(rows, vocabulary)).round(decimals=2).clamp(-60, 60) + offset
    hidden, weight = torch.eye(rows, dtype=dtype), logits.T.contiguous().to(dtype)
    targets = logits.argmax(1).where(torch.arange(rows) % 2 == 0, torch.arange(rows))
    shift = torch.randn(vocabulary).to(dtype) if bias else None
    values, upstream = [hidden, weight, *([] if shift is None else [shift])], (torch.randn(rows), torch.randn(rows))

    def run(function, *given, **options):
        return function(given[0], given[1], targets, given[2] if bias else None, temperature, **options)

    ours = compute(lambda *given: run(linear_token_stats, *given), values, upstream)
    wanted = compute(lambda *given: run(reference.linear_token_stats, *given), [value.double() for value in values], upstream)
    assert taken == [rows]
    accuracy = 1e-5 if dtype == torch.float32 else 1e-12
    rounded = accuracy * (100 if offset else 1)  # of logits near 3000, and of dX, whose terms cancel
    close(ours[0], wanted[0], rounded if bias or dtype == torch.float64 else accuracy)
    close(ours[1], wanted[1], rounded if bias or dtype == torch.float64 else accuracy)
    for gradient, exact in zip(ours[2], wanted[2], strict=True):
        relatively_close(gradient, exact, rounded)


@pytest.mark.parametrize("gap", [6.0, 12.0, 16.0, 20.0, 30.0])
@pytest.mark.parametrize("target", [0, 2])
def test_every_digit_counts_near_certainty(gap: float, target: int, taken: list[int]) -> None:
    weight = torch.zeros(40, 1)
    weight[0] = gap
    targets = torch.tensor([target, target])
    leaf = weight.double().T.repeat(2, 1).requires_grad_()
    rest = (leaf[:, 1:] - leaf[:, :1]).exp().sum(1)  # in differences to the maximum
    distance = leaf - leaf[:, :1]
    wanted = distance[:, target] - torch.log1p(rest), torch.log1p(rest) - (distance * distance.exp()).sum(1) / (1 + rest)
    for place, upstream in ((0, (torch.tensor([1.0, 2.0]), None)), (1, (None, torch.tensor([1.0, 3.0])))):
        ours = compute(lambda w: linear_token_stats(torch.ones(2, 1), w, targets), [weight], upstream)
        torch.testing.assert_close(ours[0].double(), wanted[0].detach(), rtol=1e-5, atol=0)
        torch.testing.assert_close(ours[1].double(), wanted[1].detach(), rtol=1e-5, atol=0)
        exact = torch.autograd.grad((wanted[place] * upstream[place]).sum(), leaf, retain_graph=True)[0].sum(0)[:, None]
        relatively_close(ours[2][0] / exact.norm(), exact / exact.norm(), 2e-5)
    assert taken == [2, 2]


def test_its_memory_is_counted(taken: list[int]) -> None:
    hidden, weight, targets = torch.randn(3000, 8, requires_grad=True), torch.randn(60, 8, requires_grad=True), torch.zeros(3000).long()
    with Allocations() as made:
        torch.autograd.grad(sum(linear_token_stats(hidden, weight, targets)).sum(), (hidden, weight))
    assert taken and made.peak - hidden.nbytes - weight.nbytes <= small.BUFFERS * 4 * 3000 * 60


def test_what_is_left_to_the_general_way(taken: list[int]) -> None:
    hidden, weight, targets = torch.randn(6, 8), torch.randn(40, 8), torch.arange(6)
    linear_token_stats(hidden, weight, targets)
    assert taken == [6]
    for options in (
        {"temperature": torch.ones(6)}, {"softcap": 3.0}, {"return_lse": True}, {"entropy_top_p": 0.5}, {"logprob_only": True},
        {"ignore_index": 3},
    ):  # fmt: skip
        linear_token_stats(hidden, weight, targets, **options)
    linear_token_stats(hidden.bfloat16(), weight, targets)
    linear_token_stats(torch.randn(200, 8), weight, torch.arange(200) % 40, memory_mb=0.1)
    linear_token_stats(hidden, torch.randn(small.COLUMNS + 1, 8), targets)
    linear_token_stats(torch.randn(small.ELEMENTS // 40 + 1, 8), weight, torch.zeros(small.ELEMENTS // 40 + 1, dtype=torch.long))
    assert taken == [6]
    linear_token_stats(hidden, weight, targets, ignore_index=IGNORE)  # none is ignored
    assert taken == [6, 6]
    with pytest.raises(DataError, match="targets: row 5 is 40, outside the vocabulary of 40"):
        linear_token_stats(hidden, weight, targets * 8)


def test_infinities_and_nan_are_as_on_the_general_way() -> None:
    torch.manual_seed(0)
    hidden, weight, bias, targets = torch.randn(4, 8), torch.randn(40, 8), torch.zeros(40), torch.tensor([30, 1, 22, 23])
    bias[:20] = -torch.inf
    hidden[3] = torch.nan
    values, upstream = [hidden[:3], weight], (torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 0.0, -1.0]))
    ours = linear_token_stats(hidden, weight, targets, bias)
    wanted = reference.linear_token_stats(hidden.double(), weight.double(), targets, bias.double())
    close(ours[0], wanted[0], 1e-5)
    close(ours[1], wanted[1], 1e-5)
    gradients = compute(lambda h, w: linear_token_stats(h, w, targets[:3], bias), values, upstream)[2]
    exact = compute(
        lambda h, w: reference.linear_token_stats(h, w, targets[:3], bias.double()), [value.double() for value in values], upstream
    )[2]
    for gradient, expected in zip(gradients, exact, strict=True):
        relatively_close(gradient, expected, 1e-5)
