"""Every metric on 2 processes gives what it gives on 1, however unevenly the problems are spread."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from aer_lightning.metrics import AvgAtK, DistinctAnswers, MajAtK, PassAtK

P, N = 7, 4
CORRECT = (torch.arange(P * N).reshape(P, N) * 7 % 5 < 2).tolist()
ANSWERS = [[str(j % (i + 1)) if (i + j) % 6 else None for j in range(N)] for i in range(P)]
GROUPS = torch.arange(P) % 2


def feed(rows):
    """Values of all metrics after seeing ``rows`` of the problems, one at a time."""
    counted = [PassAtK(2), PassAtK(3, num_groups=2, standard_error=True), AvgAtK(standard_error=True)]
    voted = [MajAtK(3), DistinctAnswers(correct_only=True, standard_error=True), DistinctAnswers("entropy", num_groups=2)]
    for i in rows:
        c, n = torch.tensor([sum(CORRECT[i])]), torch.tensor([N])
        for metric in counted:
            metric.update(c, n, *([GROUPS[i : i + 1]] if metric.num_groups else []))
        for metric in voted:
            metric.update(ANSWERS[i : i + 1], CORRECT[i : i + 1], *([GROUPS[i : i + 1]] if metric.num_groups else []))
    values = [metric.compute() for metric in (*counted, *voted)]
    return torch.cat([torch.stack(v).flatten() if isinstance(v, tuple) else v.flatten() for v in values])


def worker(rank, file, spread):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.save(feed(spread[rank]), f"{file}.{rank}")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_give_what_one_gives(tmp_path):
    expected = feed(range(P))
    assert not expected.isnan().any()
    # Five problems on one process and two on the other.
    mp.spawn(worker, (str(tmp_path / "a"), [[0, 2, 3, 5, 6], [1, 4]]), nprocs=2)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"a.{rank}"), expected, rtol=1e-6, atol=1e-7)
