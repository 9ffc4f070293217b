"""Generation with vLLM: a worker process beside the trainer, on the same device, fed with the policy's weights."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aer_lightning.data.engines.base import Completion, Engine, GenerationRequest, SamplingParams, check_request_lengths
from aer_lightning.data.engines.folder import WeightNames, end_token_ids, load_config
from aer_lightning.data.engines.transport import CudaMemory, SharedMemory, aligned_bytes
from aer_lightning.data.engines.vllm_environment import (
    GIB,
    refuse_expandable_segments,
    worker_cache_gib,
    worker_environment,
    worker_threads,
)
from aer_lightning.data.engines.worker_process import WorkerError, WorkerGone, WorkerProcess
from aer_lightning.errors import ConfigError, EngineError, EngineLost

if TYPE_CHECKING:
    import torch

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_BUCKET_BYTES = 512 << 20
_WORKER = "aer_lightning.data.engines.vllm_worker"
_ROUND_TOKENS = 4096  # prompt tokens that vLLM reads in one scheduling round on a CPU, unless one sequence is longer


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
        start_timeout: seconds within which vLLM has to be ready.
        step_timeout: seconds without a sign of life, in a generation until the next completion ends, in a sync until a bucket is loaded,
            after which the worker is killed. What a completion may take is added: 1 s for each token that it may have left.
        restarts: how often in a run a worker that was killed, crashed or hung is started again, with the weights of the step, and its
            generation repeated with the same seeds; then the run stops with one line. 0 for never.

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
        start_timeout: float = 1800.0,
        step_timeout: float = 600.0,
        restarts: int = 1,
    ) -> None:
        for name, seconds in {"start_timeout": start_timeout, "step_timeout": step_timeout}.items():
            if not 0 < seconds < math.inf:
                raise ConfigError(f"VLLMEngine.{name} is {seconds}; it must be a positive number of seconds")
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
        if restarts < 0:
            raise ConfigError(f"VLLMEngine.restarts is {restarts}; it must be 0 or more")
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
        self.start_timeout, self.step_timeout, self.restarts = start_timeout, step_timeout, restarts
        self._restarts_left = restarts
        self.weight_version = -1
        self._worker: WorkerProcess | None = None
        self._memory: SharedMemory | CudaMemory | None = None
        self._asleep = False
        self._started: Callable[[], None] = lambda: None

    @property
    def needs_weights(self) -> bool:
        """Never synced, or asleep, which throws the weights away."""
        return self.weight_version < 0 or self._asleep

    def start(self, model_folder: Path, *, max_model_len: int, device: torch.device, seed: int) -> None:
        """Start the worker and return; it loads vLLM (about 15 s on a CPU) while the caller goes on, and the first sync waits for it.

        Raises:
            ConfigError: the device is neither a CPU nor a CUDA GPU, or its allocator hands out memory that cannot be shared.
            DataError: no configuration, or no end token.
        """
        import torch

        self.close()
        self._started = partial(self.start, model_folder, max_model_len=max_model_len, device=device, seed=seed)
        self._device = torch.device(device)
        if self._device.type not in ("cpu", "cuda"):
            raise ConfigError(f"VLLMEngine runs on cpu and cuda, not on {self._device.type}; choose --data.engine TransformersEngine")
        if self._device.type == "cuda":
            refuse_expandable_segments()
        config = load_config(model_folder, self.trust_remote_code)
        self._ends = end_token_ids(model_folder, config, self.trust_remote_code)
        self._names = WeightNames.of_config(config, self.trust_remote_code)
        self._max_model_len = max_model_len
        on_cpu = self._device.type == "cpu"
        dtype = self.dtype if self.dtype != "auto" else ("float32" if on_cpu else "bfloat16")
        self.weight_dtype = getattr(torch, dtype)
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
            kv_cache_gib = worker_cache_gib(config, self.max_num_seqs, max_model_len, self.weight_dtype.itemsize)
        if kv_cache_gib is not None:
            llm["kv_cache_memory_bytes"] = int(kv_cache_gib * GIB)
        largest, total = self._names.largest(), self._names.parameters()
        itemsize = self.weight_dtype.itemsize
        # a bucket holds the largest weight whole, and all of them where they are few; every weight may start aligned
        capacity = max(aligned_bytes(largest, itemsize), min(_BUCKET_BYTES, total * itemsize + 64 * len(self._names.shapes)))
        shared = SharedMemory(capacity) if on_cpu else None
        self._memory = shared if shared is not None else CudaMemory(self._device, capacity)
        settings = {"llm": llm, "end_token_ids": list(self._ends), "shared": (shared.fd, shared.capacity) if shared else None}
        threads = self.cpu_threads if self.cpu_threads is not None else worker_threads(total)
        environment = worker_environment(self._device, threads=threads, fixed_cache=self.kv_cache_gib is not None, eager=eager)
        inherit = (shared.fd,) if shared else ()
        self._worker = WorkerProcess(_WORKER, settings, environment, inherit)

    def sync_weights(self, named_weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace all weights: through shared memory on a CPU, by handles to the trainer's memory on a GPU. Clears the prefix cache.

        A sleeping worker takes back the memory of its weights only; :meth:`wake` takes the rest.

        Raises:
            ConfigError: a name is missing or unexpected, a shape differs, or vLLM cannot serve the model.
        """
        if self._worker is None:
            raise RuntimeError("VLLMEngine.sync_weights before start")
        try:
            self._worker.wait(self.start_timeout)
        except WorkerError as error:
            self.close()
            advice = "mend the options of VLLMEngine, or choose --data.engine TransformersEngine"
            raise ConfigError(f"VLLMEngine: vLLM did not start: {error}\n{advice}") from error
        self.weight_version = -1
        self._send(self._with_head(named_weights))
        self.weight_version, self._asleep = version, False

    def checksums(self, names: Iterable[str]) -> dict[str, str]:
        """Checksums of the weights that vLLM serves; those of layers that it fuses in ways we do not know are left out."""
        if self.needs_weights:
            raise RuntimeError("VLLMEngine.checksums before the first sync_weights, or asleep")
        assert self._worker is not None
        return self._call("checksums", {name: self._names.shapes[name] for name in names})

    def _with_head(self, named_weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights in the served type, each tensor under one name, and the head of a tied model under its own."""
        names, seen = self._names, set()
        for name, tensor in names.checked(named_weights):
            canonical = names.alias[name]
            if canonical in seen:
                continue
            seen.add(canonical)
            tensor = tensor.detach().to(self.weight_dtype)
            yield canonical, tensor
            if names.head is not None and names.head != canonical and names.alias[names.head] == canonical:
                yield names.head, tensor.clone()

    def _send(self, named_weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Push the weights in buckets of at most the transport's capacity; the worker has copied a bucket when its call returns."""
        assert self._worker is not None and self._memory is not None
        bucket: list[tuple[str, torch.Tensor]] = []
        begun, size = False, 0

        def send(last: bool) -> None:
            nonlocal begun, size
            assert self._worker is not None and self._memory is not None
            payload = {"weights": self._memory.export(bucket), "first": not begun, "last": last}
            begun, size = True, 0
            self._call("load", payload)
            bucket.clear()
            self._memory.release()

        try:
            for name, tensor in named_weights:
                room = aligned_bytes(tensor.numel(), tensor.element_size())
                if bucket and size + room > self._memory.capacity:
                    send(last=False)
                bucket.append((name, tensor))
                size += room
            send(last=True)
        except ConfigError:
            if begun:  # vLLM has to finish what it has begun before another sync can begin
                self._call("load", {"weights": [], "first": False, "last": True})
            raise

    def stream(self, requests: Sequence[GenerationRequest], sampling: SamplingParams) -> Iterator[tuple[int, Completion]]:
        """Sample one completion per request; yield each with its index while the worker goes on with the others.

        Raises:
            ConfigError: a prompt is empty, or prompt plus ``max_new_tokens`` exceed ``max_model_len``.
        """
        if self._worker is None or self.needs_weights:
            raise RuntimeError("VLLMEngine.stream before the first sync_weights, or after sleep without another")
        check_request_lengths(requests, sampling, self._max_model_len)
        if not requests:
            return
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
        try:
            for ended in self._worker.stream("generate", payload, self.step_timeout + sampling.max_new_tokens):
                for index, ids, logprobs, reason in ended:
                    if reason not in ("stop", "length"):
                        raise RuntimeError(f"vLLM ended a completion for an unknown reason: {reason}")
                    yield index, Completion(ids, logprobs, reason)
        except WorkerGone as error:
            raise self._gone(error) from None

    def _call(self, command: str, payload: Any = None) -> Any:
        assert self._worker is not None
        try:
            return self._worker.call(command, payload, self.step_timeout)
        except WorkerGone as error:
            raise self._gone(error) from None

    def _gone(self, error: WorkerGone) -> EngineError:
        self.close()
        if self._restarts_left > 0:
            return EngineLost(f"data.init_args.engine: {error.reason}")
        return EngineError(
            f"data.init_args.engine: {error.reason}; go on with --resume auto (VLLMEngine.step_timeout is the time to answer)"
        )

    def restart(self) -> None:
        """Start the worker again after ``EngineLost``, one time less from here on; the next sync waits for it."""
        self._restarts_left -= 1
        self._started()

    def sleep(self) -> None:
        """On a GPU: give weights and cache up; the next sync pushes the weights again. Nothing to do on a CPU."""
        if self._worker is not None and self._device.type == "cuda" and not self.needs_weights:
            self._call("sleep")
            self._asleep = True

    def wake(self) -> None:
        """On a GPU: take the memory of the key-value cache back, after a sync. Nothing to do on a CPU."""
        if self._worker is not None and self._device.type == "cuda" and not self.needs_weights:
            self._call("wake")

    def close(self) -> None:
        """End the worker. Idempotent; also done when the process ends."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        self.weight_version, self._asleep = -1, False
