"""vLLM's worker on a CPU that is told it is on a GPU: only the functions of torch that need a device are replaced.

A "device pointer" is an offset into the memory that both processes map; see ``test_contract.py`` for the trainer's end.
"""

import math
import mmap
import os
from typing import Any

import torch

from aer_lightning.data.engines.transport import CudaReader
from aer_lightning.data.engines.vllm_worker import VLLMWorker
from aer_lightning.data.engines.worker_loop import serve


class CudaWorker(VLLMWorker):
    def __init__(self, settings: dict[str, Any]) -> None:
        fd, capacity = settings.pop("shared")
        memory = mmap.mmap(fd, capacity)
        os.close(fd)

        def rebuild_cuda_tensor(offset, shape, dtype, *rest):
            assert rest[3] == 5, "the worker's own index of the device"
            flat = torch.frombuffer(memory, dtype=getattr(torch, dtype), count=math.prod(shape), offset=offset)
            return flat.reshape(shape)

        torch.multiprocessing.reductions.rebuild_cuda_tensor = rebuild_cuda_tensor
        torch.cuda.current_device = lambda: 5
        torch.cuda.synchronize = torch.cuda.ipc_collect = lambda: None
        self.loads: list[tuple[bool, bool]] = []
        super().__init__({**settings, "shared": None})
        assert isinstance(self.reader, CudaReader)

    def do_load(self, bucket: dict[str, Any]) -> None:
        self.loads.append((bucket["first"], bucket["last"]))
        super().do_load(bucket)

    def do_loads(self, _: None) -> list[tuple[bool, bool]]:
        loads, self.loads = self.loads, []
        return loads

    def do_load_files(self, folder: str) -> None:
        """vLLM's own reload from a folder of safetensors: the yardstick."""
        self.llm.collective_rpc("update_config", args=({"load_config": {"load_format": "safetensors"}},))
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        self.llm.reset_prefix_cache()


if __name__ == "__main__":
    serve(CudaWorker)
