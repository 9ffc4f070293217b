"""What the worker of vLLM finds around it: variables, threads, the size of its cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aer_lightning.errors import ConfigError

if TYPE_CHECKING:
    import torch

GIB = 1 << 30
# below this size the barriers between threads cost more than the threads bring (measured: 12 times slower on 2 busy cores at 1M)
_SINGLE_THREAD_PARAMETERS = 50_000_000


def worker_environment(device: torch.device, *, threads: int, fixed_cache: bool, eager: bool) -> dict[str, str | None]:
    """Variables of the worker; None removes one. What the user has set about logging and the binding of threads stays.

    Args:
        device: the trainer's.
        threads: of a worker on a CPU.
        fixed_cache: the size of the key-value cache is an option's, so that no variable may win over it.
        eager: nothing is compiled.
    """
    cache = Path(os.environ.get("VLLM_CACHE_ROOT", "~/.cache/vllm")).expanduser() / f"rank-{_local_rank()}"
    variables: dict[str, str | None] = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the worker is the engine: no third process to leave behind
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "VLLM_NO_USAGE_STATS": "1",
        # the ranks of a machine compile at the same time, and would write over one another's cache
        "VLLM_CACHE_ROOT": str(cache),
        # torch's is in the temporary folder, which is the worker's own here and does not last
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor")),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if device.type == "cpu":
        variables |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        variables["VLLM_CPU_OMP_THREADS_BIND"] = os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        if fixed_cache:
            variables["VLLM_CPU_KVCACHE_SPACE"] = None
        if eager:
            # without this the sampler's small functions are still compiled, 3 s at the first call
            variables["TORCHDYNAMO_DISABLE"] = "1"
    else:
        index = device.index or 0
        visible = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
        variables["CUDA_VISIBLE_DEVICES"] = visible[index] if index < len(visible) else str(index)
    return variables


def worker_threads(parameters: int) -> int:
    """Threads of a worker on a CPU: one for a small model, else the cores of this process divided by the processes on this machine."""
    if parameters < _SINGLE_THREAD_PARAMETERS:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def refuse_expandable_segments() -> None:
    """CUDA IPC cannot hand such memory to another process without privileges, and vLLM cannot put it to sleep."""
    for variable in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        value = os.environ.get(variable, "").lower().replace(" ", "")
        if "expandable_segments:true" in value:
            raise ConfigError(
                f"{variable} has expandable_segments:True: VLLMEngine takes the policy's weights out of the trainer's memory, which "
                "containers do not allow for such segments; remove it from the variable, or choose --data.engine TransformersEngine"
            )


def worker_cache_gib(config: Any, sequences: int, max_model_len: int, itemsize: int) -> float:
    """GiB that keep ``sequences`` sequences of full length, between 1/16 and 4; 1 where the configuration does not say."""
    text = config.get_text_config()
    query_heads, layers = getattr(text, "num_attention_heads", None), getattr(text, "num_hidden_layers", None)
    if not (query_heads and layers and hasattr(text, "hidden_size")):
        return 1.0
    heads = getattr(text, "num_key_value_heads", None) or query_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // query_heads
    blocks = sequences * -(-max_model_len // 128) + 1  # vLLM's block on a CPU is 128 tokens
    return min(4.0, max(1 / 16, blocks * 128 * layers * heads * width * 2 * itemsize / GIB))
