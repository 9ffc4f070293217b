"""`logits_token_stats` against plain torch in fp64, on every backend: shapes, dtypes, strides and hard rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from settings import IGNORE, INTERPRETED, Setting, close, compute, logits_settings, not_interpreted, relatively_close
from torch import Tensor

from aer_lightning.kernels import logits_token_stats, reference

INFINITY = float("inf")
GRADIENT = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 3e-3}
V = 150 if INTERPRETED else 520
COLUMNS = 300 if INTERPRETED else 5000


def row(change: Callable[[Tensor], None], columns: int = COLUMNS) -> Tensor:
    values = torch.randn(columns, generator=torch.Generator().manual_seed(1))
    change(values)
    return values


def _peaked(values: Tensor) -> None:
    values.fill_(-15.0)
    values[5] = 3.0


def _certain(values: Tensor) -> None:
    values.fill_(-200.0)
    values[7] = 0.0


def _all_but_one(values: Tensor) -> None:
    values[torch.arange(len(values)) != 7] = -INFINITY


HARD_ROWS = {
    "one at 3, the rest at -15": _peaked,
    "p = 1": _certain,
    "all at -200": lambda values: values.fill_(-200.0),
    "offset 1e4": lambda values: values.add_(1e4),
    "offset -1e4": lambda values: values.sub_(1e4),
    "1e5": lambda values: values.mul_(1e5),
    "-inf in a leading block": lambda values: values[: len(values) // 2].fill_(-INFINITY),
    "-inf in all but one place": _all_but_one,
}


def check(
    setting: Setting, logits: Tensor, targets: Tensor, upstream: tuple[Tensor | None, Tensor | None], temperature: object = 1.0
) -> None:
    logits, targets = logits.to(setting.device), targets.to(setting.device)
    upstream = tuple(None if value is None else value.to(setting.device) for value in upstream)  # type: ignore[assignment]
    logprob, entropy, (gradient,) = compute(lambda logits: setting.logits(logits, targets, temperature), [logits], upstream)
    expected = compute(lambda logits: reference.logits_token_stats(logits, targets, temperature), [logits.double()], upstream)  # type: ignore[arg-type]
    close(logprob, expected[0], 1e-5)
    close(entropy, expected[1], 1e-5)
    assert (logprob <= 0).all() and logprob.dtype == torch.float32 and gradient.dtype == logits.dtype
    relatively_close(gradient, expected[2][0], GRADIENT[logits.dtype])


def upstream_of(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, generator=generator), torch.randn(rows, generator=generator)


@logits_settings
@pytest.mark.parametrize("columns", [1, 2, 17, 507, 1003, *([] if INTERPRETED else [50257, 151936, 152064])])
def test_vocabularies(setting: Setting, columns: int) -> None:
    rows = 3 if columns > 1000 else 8
    logits = 3 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns))
    upstream = upstream_of(rows)
    if columns == 1:  # whose gradient is 0: nothing to take a relative error of
        gradient = compute(lambda logits: setting.logits(logits, torch.zeros(rows, dtype=torch.long, device=setting.device)),
                           [logits.to(setting.device)], tuple(value.to(setting.device) for value in upstream))[2][0]  # type: ignore[arg-type]  # fmt: skip
        close(gradient, torch.zeros_like(gradient), 1e-6)
    else:
        check(setting, logits, torch.arange(rows) % columns, upstream)


@logits_settings
@pytest.mark.parametrize("dtype", list(GRADIENT), ids=str)
def test_dtypes(setting: Setting, dtype: torch.dtype) -> None:
    logits = (4 * torch.randn(6, 700, generator=torch.Generator().manual_seed(3))).to(dtype)
    check(setting, logits, torch.arange(6) * 100, upstream_of(6), 0.8)


@logits_settings
@pytest.mark.parametrize("columns", [60, COLUMNS])
@pytest.mark.parametrize("name", list(HARD_ROWS))
def test_hard_rows(setting: Setting, name: str, columns: int) -> None:
    """The target both at the peak and beside it; a row that is not hard stands beside it and must not change."""
    hard = row(HARD_ROWS[name], columns)
    logits = torch.stack((hard, hard, row(lambda values: None, columns)))
    targets = torch.tensor([int(hard.argmax()), 7, 3])
    upstream = (torch.tensor([1.0, -0.5, 2.0]), torch.tensor([0.5, 1.0, -1.0]))
    check(setting, logits, targets, upstream)
    check(setting, logits, targets, upstream, torch.tensor([1.5, 0.7, 1.0], device=setting.device))


@logits_settings
def test_target_of_probability_zero(setting: Setting) -> None:
    logits = row(_all_but_one).repeat(2, 1).to(setting.device)
    logprob, entropy = setting.logits(logits, torch.tensor([3, 7], device=setting.device))
    assert logprob.tolist() == [-INFINITY, 0.0] and entropy.tolist() == [0.0, 0.0]


@logits_settings
@pytest.mark.parametrize("poison", [float("nan"), INFINITY, "nothing finite"])
def test_poisoned_rows_are_nan_alone(setting: Setting, poison: object) -> None:
    logits = torch.randn(3, COLUMNS)
    if isinstance(poison, float):
        logits[1, 11] = poison
    else:
        logits[1] = -INFINITY
    targets = torch.tensor([0, 5, 9])
    expected = reference.logits_token_stats(logits.double(), targets)
    ours = compute(
        lambda logits: setting.logits(logits, targets.to(logits.device)), [logits.to(setting.device)], (torch.ones(3), torch.ones(3))
    )
    for value, wanted in zip(ours[:2], expected[:2], strict=True):
        assert value.isnan().tolist() == wanted.isnan().tolist() == [False, True, False]
    assert ours[2][0][1].isnan().all() and ours[2][0][[0, 2]].isfinite().all()
    # Without an upstream gradient the row's gradient is exactly 0 all the same.
    upstream = (torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 1.0]))
    gradient = compute(lambda logits: setting.logits(logits, targets.to(logits.device)), [logits.to(setting.device)], upstream)[2][0]
    assert not gradient[1].any() and gradient[[0, 2]].any()


@logits_settings
@pytest.mark.parametrize("columns", [40, V])
def test_ignored_rows(setting: Setting, columns: int) -> None:
    for ignored in ([1], [0, 1, 2, 4, 5]):
        logits = torch.randn(6, columns)
        logits[ignored[0]] = float("nan")
        targets = torch.arange(6)
        targets[ignored] = IGNORE
        leaf = logits.to(setting.device).requires_grad_()
        logprob, entropy = setting.logits(leaf, targets.to(setting.device), ignore_index=IGNORE)
        (logprob.sum() + entropy.sum()).backward()
        kept = targets != IGNORE
        wanted = reference.logits_token_stats(logits[kept].double(), targets[kept])
        close(logprob[kept.to(setting.device)], wanted[0], 1e-5)
        close(entropy[kept.to(setting.device)], wanted[1], 1e-5)
        assert not logprob[~kept].any() and not entropy[~kept].any()
        assert leaf.grad is not None and not leaf.grad[~kept].any() and leaf.grad[kept].isfinite().all()


@logits_settings
@pytest.mark.parametrize("columns", [40, V])
@pytest.mark.parametrize("which", ["logprob", "entropy", "strided"])
def test_upstream_gradients(setting: Setting, which: str, columns: int) -> None:
    logits, targets = torch.randn(5, columns), torch.arange(5)
    logprob, entropy = upstream_of(5)
    strided = torch.randn(5, 3)
    upstream = {"logprob": (logprob, None), "entropy": (None, entropy), "strided": (strided[:, 1], torch.tensor(0.3).expand(5))}
    check(setting, logits, targets, upstream[which])


@logits_settings
def test_strided_logits(setting: Setting) -> None:
    base = torch.randn(6, 700)
    for logits in (base[:, ::2], base[:, 3:600], base[::2], torch.randn(400, 6).T):
        check(setting, logits, torch.arange(logits.shape[0]), upstream_of(logits.shape[0]))


@logits_settings
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("columns", [30, V])
def test_inplace_backward(setting: Setting, dtype: torch.dtype, columns: int) -> None:
    """The gradient lies where the logits were, it is the same, and a second backward pass is refused."""
    weight = torch.randn(4, columns).to(setting.device, dtype).requires_grad_()
    targets = torch.arange(4, device=setting.device)
    expected = torch.autograd.grad(sum(value.sum() for value in setting.logits(weight * 2, targets)), weight)[0]
    logits = weight * 2
    seen: list[Tensor] = []
    logits.register_hook(lambda gradient: seen.append(gradient))
    loss = sum(value.sum() for value in setting.logits(logits, targets, inplace_backward=True))
    gradient = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    relatively_close(gradient, expected, GRADIENT[dtype])
    assert seen[0].data_ptr() == logits.data_ptr() and torch.equal(seen[0], logits.detach())
    with pytest.raises(RuntimeError, match="inplace"):
        torch.autograd.grad(loss, weight)


@logits_settings
def test_no_rows(setting: Setting) -> None:
    for columns in (20, 700):
        logits = torch.zeros(0, columns, device=setting.device, requires_grad=True)
        logprob, entropy = setting.logits(logits, torch.zeros(0, dtype=torch.long, device=setting.device))
        (logprob.sum() + entropy.sum()).backward()
        assert logprob.shape == (0,) and logits.grad is not None


@not_interpreted
@logits_settings
def test_more_rows_than_a_grid_axis(setting: Setting) -> None:
    rows = 65_536 + 5
    logits = torch.randn(rows, 70, device=setting.device)
    targets = torch.arange(rows, device=setting.device) % 70
    ours = setting.logits(logits, targets)
    expected = reference.logits_token_stats(logits.double(), targets)
    close(ours[0], expected[0], 1e-5)
    close(ours[1], expected[1], 1e-5)


@logits_settings
@settings(max_examples=8 if INTERPRETED else 60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 200),
    dtype=st.sampled_from(list(GRADIENT)),
    scale=st.floats(0.01, 50),
    offset=st.floats(-1000, 1000),
    temperature=st.floats(0.2, 5),
    step=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@example(rows=3, columns=129, dtype=torch.float16, scale=50.0, offset=-1000.0, temperature=0.2, step=3, seed=0)
def test_any_logits(
    setting: Setting, rows: int, columns: int, dtype: torch.dtype, scale: float, offset: float, temperature: float, step: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(rows, columns * step, generator=generator) + offset).to(dtype)[:, ::step]
    targets = torch.randint(0, columns, (rows,), generator=generator)
    logits, targets = logits.to(setting.device), targets.to(setting.device)
    upstream = (torch.randn(rows, generator=generator), torch.randn(rows, generator=generator))
    ours = compute(lambda logits: setting.logits(logits, targets, temperature), [logits], upstream)
    expected = compute(lambda logits: reference.logits_token_stats(logits, targets, temperature), [logits.double()], upstream)
    # Logits of 50 / 0.2 = 250 nat round at 250 * 6e-8 each.
    close(ours[0], expected[0], 1e-5 + 4e-7 * scale / temperature * 4)
    close(ours[1], expected[1], 1e-5)
    error = (ours[2][0].double() - expected[2][0]).norm()
    assert error <= 1e-5 * (1 + expected[2][0].norm()) * (1 if dtype == torch.float32 else 400)


@pytest.mark.skipif(INTERPRETED, reason="see test_interpreted_only.py")
@pytest.mark.parametrize("columns", [7, 90])
def test_gradcheck(columns: int) -> None:
    logits = torch.randn(4, columns, dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor([0.5, 1.0, 2.0, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda logits: logits_token_stats(logits, torch.arange(4), temperature, "torch"), [logits])
