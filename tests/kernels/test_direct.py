"""The direct way for small vocabularies; that its results are right is in test_linear.py and test_logits.py, whose shapes include it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aer_lightning.errors import ConfigError, DataError
from aer_lightning.kernels import direct, linear_token_stats


def arguments(rows: int = 6, vocabulary: int = 5) -> dict[str, Any]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, 4, requires_grad=True), torch.randn(vocabulary, 4, requires_grad=True)
    return {"hidden": hidden, "weight": weight, "targets": torch.arange(rows) % vocabulary, "temperature": 0.7}


def test_plain_arguments_go_straight_and_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments()
    matrices = (given["hidden"], given["weight"])
    assert direct.takes(**given)
    straight = linear_token_stats(**given)
    gradients = torch.autograd.grad(sum(value.sum() for value in straight), matrices)
    monkeypatch.setattr(direct, "takes", lambda *_: False)
    checked = linear_token_stats(**given)
    assert all(torch.equal(a, b) for a, b in zip(straight, checked, strict=True))
    again = torch.autograd.grad(sum(value.sum() for value in checked), matrices)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": torch.randn(6, 3)},
        {"hidden": torch.randn(6, 4, dtype=torch.float64)},
        {"hidden": torch.randn(2, 3, 4)},
        {"weight": torch.nn.Parameter(torch.randn(65, 4))},
        {"weight": torch.randn(5, 4, device="meta")},
        {"targets": torch.arange(5)},
        {"targets": torch.zeros(6)},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"temperature": torch.ones(6)},
    ],
)
def test_whatever_is_not_plain_is_checked(changes: dict[str, Any]) -> None:
    assert not direct.takes(**arguments() | changes)


def test_under_autocast_arguments_are_cast_first() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not direct.takes(**arguments())


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"targets": torch.tensor([0, 1, 5, 0, 0, 0])}, DataError, "row 2 is 5"),
        ({"targets": torch.tensor([0, -1, 0, 0, 0, 0])}, DataError, "row 1 is -1"),
        ({"temperature": -1.0}, ConfigError, "temperature"),
        ({"workspace_mb": 0}, ConfigError, "workspace_mb"),
        ({"backend": "cuda"}, ConfigError, "backend"),
    ],
)
def test_mistakes_are_named_as_everywhere(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        linear_token_stats(**arguments() | changes)


def test_the_second_derivative_is_refused() -> None:
    given = arguments()
    logprob, entropy = linear_token_stats(**given)
    scale = torch.ones((), requires_grad=True)
    first = torch.autograd.grad(((logprob + entropy) * scale).sum(), given["hidden"], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_the_backward_pass_ignores_autocast() -> None:
    given = arguments()
    matrices = (given["hidden"], given["weight"])
    outside = torch.autograd.grad(linear_token_stats(**given)[1].sum(), matrices)
    entropy = linear_token_stats(**given)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = torch.autograd.grad(entropy.sum(), matrices)
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))


def test_no_rows_of_two_dtypes() -> None:
    hidden, weight = torch.zeros(0, 4, requires_grad=True), torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    logprob, entropy = linear_token_stats(hidden, weight, torch.zeros(0, dtype=torch.long))
    assert logprob.shape == entropy.shape == (0,) and logprob.dtype == torch.float64
    (logprob + entropy).sum().backward()
    assert hidden.grad is not None and weight.grad is not None and not weight.grad.any()
