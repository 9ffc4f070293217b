import os

import pytest
import torch

from aer_lightning.data.engines.transport import CudaMemory, CudaReader, SharedMemory, SharedReader, aligned_bytes


def tensors() -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 7, generator=generator)
    return [("a", matrix), ("b", matrix.T), ("c", matrix[0].bfloat16()), ("d", matrix.half()[:, :3]), ("e", torch.tensor(2.5))]


@pytest.mark.parametrize("anonymous", [True, False])
def test_tensors_arrive_bit_for_bit_and_stay_when_the_memory_is_used_again(monkeypatch, anonymous):
    if not anonymous:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    bucket = tensors()
    memory = SharedMemory(sum(aligned_bytes(t.numel(), t.element_size()) for _, t in bucket))
    reader = SharedReader(os.dup(memory.fd), memory.capacity)
    first = [(name, reader.open(handle)) for name, handle in memory.export(bucket)]
    memory.release()
    again = [(name, reader.open(handle)) for name, handle in memory.export([(name, tensor + 1) for name, tensor in bucket])]
    for (name, tensor), (arrived, value), (_, second) in zip(bucket, first, again, strict=True):
        assert arrived == name
        assert value.dtype == tensor.dtype and torch.equal(value, tensor)
        assert torch.equal(second, tensor + 1)
    memory.close()
    memory.close()


def test_a_bucket_that_is_too_large_is_refused():
    memory = SharedMemory(128)
    with pytest.raises(ValueError, match="b: a bucket of more than 128 bytes"):
        memory.export([("a", torch.zeros(16)), ("b", torch.zeros(17))])


def test_handles_to_a_gpu_are_made_after_the_tensors_and_collected_after_the_copy(monkeypatch):
    """Only the functions of torch that need a device are replaced."""
    said = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: said.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: said.append("ipc_collect"))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    reductions = torch.multiprocessing.reductions
    stored: list[torch.Tensor] = []

    def reduce_tensor(tensor):
        said.append("reduce")
        assert tensor.is_contiguous()
        stored.append(tensor)
        return None, (len(stored) - 1, *"bcdef", 0, *"hijklmn")

    def rebuild(place, *rest):
        assert rest[5] == 3, "the worker's own index of the device"
        return stored[place]

    monkeypatch.setattr(reductions, "reduce_tensor", reduce_tensor)
    monkeypatch.setattr(reductions, "rebuild_cuda_tensor", rebuild)
    memory, reader = CudaMemory(torch.device("cpu"), 1 << 20), CudaReader()
    bucket = tensors()[:2]
    handles = memory.export(bucket)
    assert said == ["synchronize", "reduce", "reduce"]
    opened = [reader.open(handle) for _, handle in handles]
    reader.finish()
    memory.release()
    assert said[3:] == ["synchronize", "ipc_collect", "ipc_collect"]
    for tensor, original, (_, expected) in zip(opened, stored, bucket, strict=True):
        assert torch.equal(tensor, expected) and tensor.data_ptr() != original.data_ptr()
    memory.close()
