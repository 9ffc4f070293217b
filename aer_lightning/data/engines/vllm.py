"""Generation with vLLM: a worker process beside the trainer, on the same device, fed with the policy's weights."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aer_lightning.data.engines.base import Completion, Engine, GenerationRequest, SamplingParams, check_request_lengths
from aer_lightning.data.engines.folder import WeightNames, end_token_ids, load_config
from aer_lightning.data.engines.worker_process import WorkerError, WorkerProcess
from aer_lightning.errors import ConfigError

if TYPE_CHECKING:
    import torch

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_GIB = 1 << 30
# below this size the barriers between threads cost more than the threads bring (measured: 12 times slower on 2 busy cores at 1M)
_SINGLE_THREAD_PARAMETERS = 50_000_000
_BUCKET_BYTES = 512 << 20
_ROUND_TOKENS = 2048  # prompt tokens that vLLM reads in one scheduling round on a CPU, unless one sequence is longer


class VLLMEngine(Engine):
    """Sampling with vLLM in a process of its own, started beside whatever the trainer does until the first rollout.

    The served head is always untied: vLLM keeps the old head of a tied model when weights are reloaded.

    Args:
        gpu_memory_utilization: share of the GPU's memory that vLLM may take, weights included; not used on a CPU.
        kv_cache_gib: size of the key-value cache in GiB. None: on a CPU what ``max_num_seqs`` sequences of full length need, 4 GiB
            at most; on a GPU what ``gpu_memory_utilization`` leaves.
        max_num_seqs: sequences decoded at the same time.
        enforce_eager: run without compilation and CUDA graphs. None: yes on a CPU, where compiling takes longer than it saves, no on a GPU.
        dtype: of the served weights: float32, bfloat16, float16, or auto (float32 on a CPU, bfloat16 on a GPU).
        enable_prefix_caching: read a prompt that several samples share only once, in whole blocks.
        cpu_threads: threads of the worker on a CPU. None: 1 for models below 50M parameters, else the cores of this process divided by
            the processes on this machine.
        trust_remote_code: run the model code that lies in the folder.

    Raises:
        ConfigError: an argument is out of range, or vLLM is not installed.
    """

    def __init__(
        self,
        gpu_memory_utilization: float = 0.4,
        kv_cache_gib: float | None = None,
        max_num_seqs: int = 256,
        enforce_eager: bool | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        enable_prefix_caching: bool = True,
        cpu_threads: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if not 0 < gpu_memory_utilization <= 1:
            raise ConfigError(f"VLLMEngine.gpu_memory_utilization is {gpu_memory_utilization}; it must be in (0, 1]")
        if kv_cache_gib is not None and not kv_cache_gib > 0:
            raise ConfigError(f"VLLMEngine.kv_cache_gib is {kv_cache_gib}; it must be above 0, or null to let the engine choose")
        if max_num_seqs < 1:
            raise ConfigError(f"VLLMEngine.max_num_seqs is {max_num_seqs}; it must be at least 1")
        if dtype not in _DTYPES:
            raise ConfigError(f"VLLMEngine.dtype is {dtype!r}; choose one of {', '.join(_DTYPES)}")
        if cpu_threads is not None and cpu_threads < 1:
            raise ConfigError(f"VLLMEngine.cpu_threads is {cpu_threads}; it must be at least 1, or null to let the engine choose")
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                'VLLMEngine: vLLM is not installed; run `make venv`, or `pip install "aer-lightning[vllm]"` on an NVIDIA GPU, '
                "or choose --data.engine TransformersEngine"
            )
        self.gpu_memory_utilization = gpu_memory_utilization
        self.kv_cache_gib = kv_cache_gib
        self.max_num_seqs = max_num_seqs
        self.enforce_eager = enforce_eager
        self.dtype = dtype
        self.enable_prefix_caching = enable_prefix_caching
        self.cpu_threads = cpu_threads
        self.trust_remote_code = trust_remote_code
        self.weight_version = -1
        self._worker: WorkerProcess | None = None

    def start(self, model_folder: Path, *, max_model_len: int, device: torch.device, seed: int) -> None:
        """Start the worker and return; it loads vLLM (about 15 s on a CPU) while the caller goes on, and the first sync waits for it.

        Raises:
            ConfigError: the device is neither a CPU nor a CUDA GPU.
            DataError: no configuration, or no end token.
        """
        import torch

        self.close()
        self._device = torch.device(device)
        if self._device.type not in ("cpu", "cuda"):
            raise ConfigError(f"VLLMEngine runs on cpu and cuda, not on {self._device.type}; choose --data.engine TransformersEngine")
        config = load_config(model_folder, self.trust_remote_code)
        self._ends = end_token_ids(model_folder, config, self.trust_remote_code)
        self._names = WeightNames.of_config(config, self.trust_remote_code)
        self._max_model_len = max_model_len
        on_cpu = self._device.type == "cpu"
        dtype = self.dtype if self.dtype != "auto" else ("float32" if on_cpu else "bfloat16")
        self._dtype = getattr(torch, dtype)
        eager = on_cpu if self.enforce_eager is None else self.enforce_eager
        llm: dict[str, Any] = {
            "model": str(model_folder),
            "skip_tokenizer_init": True,  # ids in, ids out
            "load_format": "dummy",
            "hf_overrides": {"tie_word_embeddings": False},
            "dtype": dtype,
            "max_model_len": max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "enforce_eager": eager,
            "enable_prefix_caching": self.enable_prefix_caching,
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",  # sampling is as asked for, not as the folder suggests
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "enable_sleep_mode": not on_cpu,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            "trust_remote_code": self.trust_remote_code,
            "seed": seed % 2**32,
        }
        if on_cpu:
            # A prompt that is split over two scheduling rounds makes vLLM rewind the generator of its request, which a CPU generator
            # cannot do; on a GPU it can, and splitting stays on. Every prompt and every preempted sequence then has to fit in one round.
            llm["enable_chunked_prefill"] = False
            llm["max_num_batched_tokens"] = max(_ROUND_TOKENS, max_model_len, self.max_num_seqs)
        kv_cache_gib = self.kv_cache_gib
        if kv_cache_gib is None and on_cpu and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            kv_cache_gib = _kv_cache_gib(config, self.max_num_seqs, max_model_len, self._dtype.itemsize)
        if kv_cache_gib is not None:
            llm["kv_cache_memory_bytes"] = int(kv_cache_gib * _GIB)
        settings = {"llm": llm, "end_token_ids": list(self._ends)}
        space = self._names.parameters() * self._dtype.itemsize if on_cpu else 0
        environment = self._environment(on_cpu, eager)
        self._worker = WorkerProcess("aer_lightning.data.engines.vllm_worker", settings, environment, space)

    def _environment(self, on_cpu: bool, eager: bool) -> dict[str, str | None]:
        """Variables of the worker. What the user has set about logging stays."""
        variables: dict[str, str | None] = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the worker is the engine: no third process to leave behind
            "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
            "VLLM_NO_USAGE_STATS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if on_cpu:
            threads = str(self._threads())
            variables |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
            variables["VLLM_CPU_OMP_THREADS_BIND"] = os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            if self.kv_cache_gib is not None:
                variables["VLLM_CPU_KVCACHE_SPACE"] = None  # it would win over the option
            if eager:
                # without this the sampler's small functions are still compiled, 3 s at the first call
                variables["TORCHDYNAMO_DISABLE"] = "1"
        else:
            index = self._device.index or 0
            visible = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
            variables["CUDA_VISIBLE_DEVICES"] = visible[index] if index < len(visible) else str(index)
        return variables

    def _threads(self) -> int:
        if self.cpu_threads is not None:
            return self.cpu_threads
        if self._names.parameters() < _SINGLE_THREAD_PARAMETERS:
            return 1
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

    def sync_weights(self, named_weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace all weights: through shared memory on a CPU, by handles to the trainer's memory on a GPU. Clears the prefix cache.

        Raises:
            ConfigError: a name is missing or unexpected, a shape differs, or vLLM cannot serve the model.
        """
        if self._worker is None:
            raise RuntimeError("VLLMEngine.sync_weights before start")
        try:
            self._worker.wait()
        except WorkerError as error:
            self.close()
            advice = "mend the options of VLLMEngine, or choose --data.engine TransformersEngine"
            raise ConfigError(f"VLLMEngine: vLLM did not start: {error}\n{advice}") from error
        self.weight_version = -1
        if self._device.type == "cuda":
            self._sync_on_gpu(named_weights)
        else:
            self._sync_by_file(named_weights)
        self.weight_version = version

    def _with_head(self, named_weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights in the served type, each tensor under one name, and the head of a tied model under its own."""
        names, seen = self._names, set()
        for name, tensor in names.checked(named_weights):
            canonical = names.alias[name]
            if canonical in seen:
                continue
            seen.add(canonical)
            tensor = tensor.detach().to(self._dtype)
            yield canonical, tensor
            if names.head is not None and names.head != canonical and names.alias[names.head] == canonical:
                yield names.head, tensor.clone()

    def _sync_by_file(self, named_weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        from safetensors.torch import save_file

        assert self._worker is not None
        folder = self._worker.folder / "weights"
        folder.mkdir(exist_ok=True)
        path = folder / "model.safetensors"
        save_file({name: tensor.cpu().contiguous() for name, tensor in self._with_head(named_weights)}, path)
        try:
            self._worker.call("load_files", str(folder))
        finally:
            path.unlink()

    def _sync_on_gpu(self, named_weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Buckets of handles (CUDA IPC): the tensors stay where they are, the worker copies them within the GPU's memory."""
        import torch
        from torch.multiprocessing.reductions import reduce_tensor

        assert self._worker is not None
        bucket: list[tuple[str, torch.Tensor]] = []
        first, size = True, 0

        def send(last: bool) -> None:
            nonlocal first, size
            torch.cuda.synchronize(self._device)
            handles = [(name, reduce_tensor(tensor)[1]) for name, tensor in bucket]
            assert self._worker is not None
            self._worker.call("load_cuda", {"weights": handles, "first": first, "last": last})
            bucket.clear()
            first, size = False, 0

        for name, tensor in self._with_head(named_weights):
            if size >= _BUCKET_BYTES:
                send(last=False)
            bucket.append((name, tensor.to(self._device).contiguous()))
            size += tensor.numel() * tensor.element_size()
        send(last=True)

    def generate(self, requests: Sequence[GenerationRequest], sampling: SamplingParams) -> list[Completion]:
        """Sample one completion per request, in their order.

        Raises:
            ConfigError: a prompt is empty, or prompt plus ``max_new_tokens`` exceed ``max_model_len``.
        """
        if self._worker is None or self.weight_version < 0:
            raise RuntimeError("VLLMEngine.generate before the first sync_weights")
        check_request_lengths(requests, sampling, self._max_model_len)
        if not requests:
            return []
        payload = {
            "prompts": [list(request.prompt_ids) for request in requests],
            "seeds": [request.seed for request in requests],
            "sampling": {
                "temperature": sampling.temperature,
                "max_tokens": sampling.max_new_tokens,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
            },
        }
        completions = [Completion(*completion) for completion in self._worker.call("generate", payload)]
        for completion in completions:
            if completion.finish_reason not in ("stop", "length"):
                raise RuntimeError(f"vLLM ended a completion for an unknown reason: {completion.finish_reason}")
        return completions

    def sleep(self) -> None:
        """On a GPU: the weights go to host memory and the cache is freed, until the next sync or generation. Nothing on a CPU."""
        if self._worker is not None and self._device.type == "cuda" and self.weight_version >= 0:
            self._worker.call("sleep")

    def close(self) -> None:
        """End the worker. Idempotent; also done when the process ends."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        self.weight_version = -1


def _kv_cache_gib(config: Any, sequences: int, max_model_len: int, itemsize: int) -> float:
    """GiB that keep ``sequences`` sequences of full length, between 1/16 and 4; 1 where the configuration does not say."""
    text = config.get_text_config()
    query_heads, layers = getattr(text, "num_attention_heads", None), getattr(text, "num_hidden_layers", None)
    if not (query_heads and layers and hasattr(text, "hidden_size")):
        return 1.0
    heads = getattr(text, "num_key_value_heads", None) or query_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // query_heads
    blocks = sequences * -(-max_model_len // 128) + 1  # vLLM's block on a CPU is 128 tokens
    return min(4.0, max(1 / 16, blocks * 128 * layers * heads * width * 2 * itemsize / _GIB))
