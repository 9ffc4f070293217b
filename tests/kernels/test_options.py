"""The options beyond log-probability and entropy: each against plain torch in fp64 written here, on every backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from settings import INTERPRETED, Setting, close, linear_settings, logits_settings, relatively_close
from torch import Tensor

from aer_lightning.errors import ConfigError
from aer_lightning.kernels import linear_top_logprobs, logits_top_logprobs

ROWS, VOCABULARY = (4, 150) if INTERPRETED else (9, 700)
TEMPERATURE = 0.8


def inputs(width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(ROWS, width, generator=generator), 3 * torch.randn(VOCABULARY, width, generator=generator) / width**0.5
    return hidden, weight, torch.arange(ROWS) * 11


def wanted(
    logits: Tensor,
    targets: Tensor,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    kept: int | None = None,
    mass: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Log-probability, entropy and log-sum-exp; the entropy of the `kept` largest, or of the fewest that hold `mass`."""
    logits = logits * logit_scale
    logits = (logits if softcap is None else softcap * torch.tanh(logits / softcap)) / TEMPERATURE
    logprobs = logits.log_softmax(1)
    part = logprobs
    if kept is not None or mass is not None:
        order = logprobs.argsort(1, descending=True)
        before = logprobs.gather(1, order).exp().cumsum(1) - logprobs.gather(1, order).exp()
        inside = torch.arange(logits.shape[1]).expand_as(order) < kept if kept is not None else before < mass
        mask = torch.zeros_like(inside).scatter(1, order, inside)
        part = logits.masked_fill(~mask, -torch.inf).log_softmax(1)
    entropy = -(part.exp() * part.masked_fill(part == -torch.inf, 0.0)).sum(1)
    return logprobs.gather(1, targets[:, None])[:, 0], entropy, logits.logsumexp(1)


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"softcap": 2.0}, {"softcap": 2.0}),
    ({"logit_scale": 0.3}, {"logit_scale": 0.3}),
    ({"softcap": 2.0, "logit_scale": 1.7}, {"softcap": 2.0, "logit_scale": 1.7}),
    ({"entropy_top_share": 0.1}, {"kept": -(-VOCABULARY // 10)}),
    ({"entropy_top_share": 1.0}, {}),
    ({"entropy_top_p": 0.5}, {"mass": 0.5}),
    ({"entropy_top_p": 0.9, "softcap": 4.0}, {"mass": 0.9, "softcap": 4.0}),
]


def compare(function: Any, leaves: list[Tensor], logits: Any, targets: Tensor, options: dict[str, Any], plain: dict[str, Any]) -> None:
    ours = function(*leaves, return_lse=True, **options)
    exact = [leaf.detach().double().cpu().requires_grad_() for leaf in leaves]
    expected = wanted(logits(*exact), targets.cpu(), **plain)
    weights = torch.linspace(0.5, 1.5, ROWS)
    for value, right in zip(ours, expected, strict=True):
        close(value.detach(), right.detach(), 1e-5)
        gradients = torch.autograd.grad((value * weights.to(value)).sum(), leaves, retain_graph=True)
        for gradient, of_right in zip(gradients, torch.autograd.grad((right * weights).sum(), exact, retain_graph=True), strict=True):
            relatively_close(gradient, of_right, 1e-5)


@logits_settings
@pytest.mark.parametrize(("options", "plain"), CASES, ids=str)
def test_logits(setting: Setting, options: dict[str, Any], plain: dict[str, Any]) -> None:
    hidden, weight, targets = inputs()
    logits = (hidden @ weight.T).to(setting.device).requires_grad_()
    targets = targets.to(setting.device)
    compare(lambda z, **more: setting.logits(z, targets, TEMPERATURE, **more), [logits], lambda z: z, targets, options, plain)


@linear_settings
@pytest.mark.parametrize("memory", [0.06, 64])
@pytest.mark.parametrize(("options", "plain"), [CASES[index] for index in ((3, 6) if INTERPRETED else range(len(CASES)))], ids=str)
def test_linear(setting: Setting, options: dict[str, Any], plain: dict[str, Any], memory: float) -> None:
    hidden, weight, targets = inputs()
    leaves = [hidden.to(setting.device).requires_grad_(), weight.to(setting.device).requires_grad_()]
    targets = targets.to(setting.device)
    compare(
        lambda h, w, **more: setting.linear(h, w, targets, None, TEMPERATURE, memory_mb=memory, **more),
        leaves, lambda h, w: h @ w.T, targets, options, plain,
    )  # fmt: skip


@linear_settings
@pytest.mark.parametrize("only", ["logprob", "entropy"])
def test_only_one_result(setting: Setting, only: str) -> None:
    """The other is None and nothing of it is computed; both results and gradients are those of the full call."""
    hidden, weight, targets = inputs()
    hidden, targets = hidden.to(setting.device).requires_grad_(), targets.to(setting.device)
    both = setting.linear(hidden, weight.to(setting.device), targets)
    alone = setting.linear(hidden, weight.to(setting.device), targets, **{f"{only}_only": True})
    place = ("logprob", "entropy").index(only)
    assert alone[1 - place] is None and len(alone) == 2
    close(alone[place].detach(), both[place].detach(), 1e-6)
    relatively_close(torch.autograd.grad(alone[place].sum(), hidden)[0], torch.autograd.grad(both[place].sum(), hidden)[0].double(), 1e-5)


@logits_settings
def test_ignored_rows_and_a_poisoned_one_with_a_top(setting: Setting) -> None:
    logits = torch.randn(4, 200).to(setting.device)
    logits[1, 5], logits[2] = float("nan"), float("nan")
    results = setting.logits(
        logits, torch.tensor([0, 1, -100, 3], device=setting.device), ignore_index=-100, entropy_top_p=0.5, return_lse=True
    )
    for value in results:
        assert value.isnan().tolist() == [False, True, False, False] and value[2] == 0


@pytest.mark.skipif(INTERPRETED, reason="torch operations alone")
@pytest.mark.parametrize("temperature", [0.7, "rows"])
def test_top_logprobs(temperature: Any) -> None:
    hidden, weight, _ = inputs()
    bias = torch.randn(VOCABULARY)
    given = torch.linspace(0.5, 2, ROWS) if temperature == "rows" else temperature
    logits = hidden.double() @ weight.double().T + bias
    inverse = 1 / (given[:, None].double() if temperature == "rows" else given)
    expected, ids = (5 * torch.tanh(1.5 * logits / 5) * inverse).log_softmax(1).topk(9, dim=1)
    for memory in (0.1, "auto"):
        ours = linear_top_logprobs(hidden, weight, 9, bias, given, memory, softcap=5.0, logit_scale=1.5)
        close(ours[0], expected, 1e-5)
        assert torch.equal(ours[1], ids) and not ours[0].requires_grad
    ours = logits_top_logprobs(logits.float(), 9, given, softcap=5.0, logit_scale=1.5)
    close(ours[0], expected, 1e-5)
    assert torch.equal(ours[1], ids)
    with pytest.raises(ConfigError, match="k: 0 is not in 1 to"):
        logits_top_logprobs(logits, 0)
