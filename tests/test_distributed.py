import torch.distributed as dist
import torch.multiprocessing as mp

from aer_lightning.distributed import gather_objects, is_distributed, max_over_ranks, rank, sum_over_ranks


def test_one_process_is_the_identity():
    assert not is_distributed() and rank() == 0
    assert sum_over_ranks([1.0, 2.5]) == [1.0, 2.5] and max_over_ranks([3.0]) == [3.0] and gather_objects("a") == ["a"]


def _worker(index, store, queue):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=index, world_size=2)
    # 2**53 + 1 is the first integer that fp64 misses; fp32 would miss 2**24 + 1.
    queue.put((index, rank(), sum_over_ranks([float(2**24), 1.0 * index]), max_over_ranks([float(index)]), gather_objects({"r": index})))
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    queue = mp.get_context("spawn").SimpleQueue()
    mp.spawn(_worker, (str(tmp_path / "store"), queue), nprocs=2)
    results = sorted(queue.get() for _ in range(2))
    for index, result in enumerate(results):
        assert result == (index, index, [float(2**25), 1.0], [1.0], [{"r": 0}, {"r": 1}])
