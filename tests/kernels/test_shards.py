"""A vocabulary split over two processes gives what one process gives, forward and backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from aer_lightning.errors import DataError
from aer_lightning.kernels import VocabularyShard, linear_token_stats, logits_token_stats, reference

ROWS, WIDTH, SIZES = 9, 12, (350, 507)  # slices of different size
IGNORE = -100


def problem() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    vocabulary = sum(SIZES)
    data = {
        "hidden": torch.randn(ROWS, WIDTH, generator=generator),
        "weight": torch.randn(vocabulary, WIDTH, generator=generator),
        "bias": torch.randn(vocabulary, generator=generator),
        "targets": torch.tensor([0, 349, 350, 856, 500, IGNORE, 1, 351, 700]),
        "temperature": 0.5 + torch.rand(ROWS, generator=generator),
    }
    data["hidden"][7] *= 30  # the maximum of a row lies in one slice, far above the other's
    return data


def loss_of(results: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (results[0] * torch.arange(1.0, 1.0 + ROWS)).sum() + (results[1] ** 2).sum()


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    data = problem()
    start = sum(SIZES[:rank])
    mine = slice(start, start + SIZES[rank])
    group = dist.group.WORLD
    assert group is not None
    shard = VocabularyShard.of(group, SIZES[rank])
    assert (shard.start, shard.total) == (start, sum(SIZES))
    saved = {}
    for cache in (0.1, 4):  # MiB: the logits are computed again, or kept
        hidden, weight, bias = data["hidden"].clone(), data["weight"][mine].clone(), data["bias"][mine].clone()
        leaves = [value.requires_grad_() for value in (hidden, weight, bias)]
        results = linear_token_stats(
            hidden,
            weight,
            data["targets"],
            bias,
            data["temperature"],
            "torch",
            cache,
            ignore_index=IGNORE,
            shard=shard,
        )
        saved[cache] = [value.detach() for value in results] + list(torch.autograd.grad(loss_of(results), leaves))
    logits = (data["hidden"] @ data["weight"].T)[:, mine].clone().requires_grad_()
    results = logits_token_stats(logits, data["targets"], backend="torch", ignore_index=IGNORE, shard=shard)
    saved["logits"] = [value.detach() for value in results] + list(torch.autograd.grad(loss_of(results), [logits]))
    try:
        linear_token_stats(data["hidden"], data["weight"][mine], data["targets"], shard=shard)
    except DataError as error:
        saved["error"] = str(error)
    torch.save(saved, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    data = problem()
    leaves = [data[name].double().requires_grad_() for name in ("hidden", "weight", "bias")]
    results = reference.linear_token_stats(leaves[0], leaves[1], data["targets"], leaves[2], data["temperature"], IGNORE)[:2]
    expected = torch.autograd.grad(loss_of(results), leaves)
    logits = (data["hidden"] @ data["weight"].T).double().requires_grad_()
    of_logits = reference.logits_token_stats(logits, data["targets"], ignore_index=IGNORE)[:2]
    expected_logits = torch.autograd.grad(loss_of(of_logits), [logits])[0]
    for rank in range(2):
        saved = torch.load(tmp_path / f"{rank}.pt")
        mine = slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1]))
        for cache in (0.1, 4):
            logprob, entropy, *gradients = saved[cache]
            torch.testing.assert_close(logprob.double(), results[0].detach(), atol=1e-5, rtol=1e-6)
            torch.testing.assert_close(entropy.double(), results[1].detach(), atol=1e-5, rtol=0)
            for ours, wanted in zip(gradients, (expected[0], expected[1][mine], expected[2][mine]), strict=True):
                assert (ours.double() - wanted).norm() <= 1e-5 * wanted.norm()
            assert not gradients[0][5].any()
        torch.testing.assert_close(saved["logits"][0].double(), of_logits[0].detach(), atol=1e-5, rtol=1e-6)
        torch.testing.assert_close(saved["logits"][1].double(), of_logits[1].detach(), atol=1e-5, rtol=0)
        assert (saved["logits"][2].double() - expected_logits[:, mine]).norm() <= 1e-5 * expected_logits.norm()
        assert saved["error"].startswith(f"targets: row 5 is {IGNORE}, outside the vocabulary of {sum(SIZES)}")


def test_one_process_needs_no_shard(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert dist.group.WORLD is not None
        shard = VocabularyShard.of(dist.group.WORLD, 300)
        hidden, weight, targets = torch.randn(4, 8), torch.randn(300, 8), torch.arange(4)
        for ours, alone in zip(
            linear_token_stats(hidden, weight, targets, shard=shard), linear_token_stats(hidden, weight, targets), strict=True
        ):
            torch.testing.assert_close(ours, alone)
        with pytest.raises(DataError, match="outside the vocabulary of 300"):
            linear_token_stats(hidden, weight, targets + 297, shard=shard)
    finally:
        dist.destroy_process_group()
