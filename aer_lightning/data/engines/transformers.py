"""Generation with a Hugging Face model on the trainer's device: no server, bit-identical on every run, for any architecture it knows.

What it does beyond a plain ``generate`` call: a prompt that several requests share is read once; a row that has ended leaves the
batch at once and a waiting request takes its place; every sample has its own counter-based random numbers, so it is the same
whatever it was batched with (up to the rounding of the matrix products, about 1e-6 nat).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aer_lightning.data.engines.base import Completion, Engine, GenerationRequest, SamplingParams, check_request_lengths
from aer_lightning.data.engines.checksum import checksum
from aer_lightning.data.engines.folder import WeightNames, end_token_ids, load_config
from aer_lightning.errors import ConfigError

if TYPE_CHECKING:
    import torch

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


class TransformersEngine(Engine):
    """Batched sampling with a key-value cache from an own copy of the model, on the device of the trainer.

    Args:
        max_batch_size: rows decoded at the same time; the cache holds ``max_batch_size`` x (prompt + completion) tokens.
        max_prefill_tokens: prompt tokens read by one forward pass, a bound on its memory.
        dtype: of the engine's copy of the weights: float32, bfloat16, float16, or auto (float32 on a CPU, bfloat16 on an accelerator).
        trust_remote_code: run the model code that lies in the folder.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        max_batch_size: int = 256,
        max_prefill_tokens: int = 16384,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        if max_batch_size < 1:
            raise ConfigError(f"TransformersEngine.max_batch_size is {max_batch_size}; it must be at least 1")
        if max_prefill_tokens < 1:
            raise ConfigError(f"TransformersEngine.max_prefill_tokens is {max_prefill_tokens}; it must be at least 1")
        if dtype not in _DTYPES:
            raise ConfigError(f"TransformersEngine.dtype is {dtype!r}; choose one of {', '.join(_DTYPES)}")
        self.max_batch_size = max_batch_size
        self.max_prefill_tokens = max_prefill_tokens
        self.dtype = dtype
        self.trust_remote_code = trust_remote_code
        self.weight_version = -1
        self._model: Any = None
        self._shapes: dict[torch.nn.Parameter, tuple[int, ...]] = {}  # of parameters that were given up

    @property
    def needs_weights(self) -> bool:
        """Never synced, or asleep, which throws the weights away."""
        return self.weight_version < 0 or bool(self._shapes)

    def start(self, model_folder: Path, *, max_model_len: int, device: torch.device, seed: int) -> None:
        """Build the architecture; the weights come with :meth:`sync_weights`. ``seed`` is not used: samples have their own.

        Raises:
            ConfigError: the architecture has layers other than attention, whose state this engine's cache does not hold.
            DataError: no configuration, or no end token.
        """
        import torch
        from transformers import AutoModelForCausalLM

        from aer_lightning.data.engines.attention import use_fused_norms, use_grouped_decode

        config = load_config(model_folder, self.trust_remote_code)
        others = set(getattr(config.get_text_config(), "layer_types", None) or ()) - _ATTENTION_LAYERS
        if others:
            raise ConfigError(f"TransformersEngine cannot decode {config.model_type} ({', '.join(sorted(others))} layers); use VLLMEngine")
        self._ends = end_token_ids(model_folder, config, self.trust_remote_code)
        self._device = torch.device(device)
        self._max_model_len = max_model_len
        name = self.dtype if self.dtype != "auto" else ("float32" if self._device.type == "cpu" else "bfloat16")
        # Initial weights are random and thrown away: the run's random numbers must not notice. They are written to later, which an
        # evaluation's inference mode would forbid.
        generators = torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else [])
        with torch.inference_mode(False), generators, self._device:
            self._model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, name), trust_remote_code=self.trust_remote_code)
        self.weight_dtype = getattr(torch, name)
        self._model.eval().requires_grad_(False)
        use_grouped_decode(self._model)
        use_fused_norms(self._model)
        self._names = WeightNames.of_model(self._model)
        self._end_tensor = torch.tensor(self._ends, device=self._device)
        self.weight_version = -1

    def sync_weights(self, named_weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Copy the policy's weights in place; the name of a tied head may be absent.

        Raises:
            ConfigError: a name is missing or unexpected, or a shape differs; the engine then counts as never synced.
        """
        import torch

        if self._model is None:
            raise RuntimeError("TransformersEngine.sync_weights before start")
        self.weight_version = -1
        self._take_memory()
        targets = self._model.state_dict()
        with torch.no_grad():
            for name, tensor in self._names.checked(named_weights):
                targets[name].copy_(tensor)
        self.weight_version = version

    def checksums(self, names: Iterable[str]) -> dict[str, str]:
        """Checksums of the engine's own copy of the weights."""
        if self.needs_weights:
            raise RuntimeError("TransformersEngine.checksums before the first sync_weights, or asleep")
        state = self._model.state_dict()
        return {name: checksum(state[name], self.weight_dtype) for name in names}

    def stream(self, requests: Sequence[GenerationRequest], sampling: SamplingParams) -> Iterator[tuple[int, Completion]]:
        """Sample one completion per request; yield each with its index as soon as it has ended.

        Raises:
            ConfigError: a prompt is empty, or prompt plus ``max_new_tokens`` exceed ``max_model_len``.
        """
        import torch

        from aer_lightning.data.engines.decoding import Decoding

        if self._model is None or self.needs_weights:
            raise RuntimeError("TransformersEngine.stream before the first sync_weights, or after sleep without another")
        check_request_lengths(requests, sampling, self._max_model_len)
        if not requests:
            return
        decoding = Decoding(self, requests, sampling)
        while not decoding.done():
            # Left before every yield: the consumer must not find itself in inference mode. An autocast context of the trainer must not
            # reach in: the engine's dtype is its own.
            with torch.inference_mode(), torch.autocast(self._device.type, enabled=False):
                ended = decoding.advance()
            yield from ended

    def sleep(self) -> None:
        """On an accelerator the weights are given up: the next sync replaces every one. Nothing to do on a CPU."""
        import torch

        if self._model is not None and self._device.type == "cuda" and not self.needs_weights:
            self._give_memory()
            torch.cuda.empty_cache()

    def wake(self) -> None:
        """Nothing to do: the cache is allocated for each call."""

    def _give_memory(self) -> None:
        import torch

        for parameter in self._model.parameters():
            self._shapes[parameter] = tuple(parameter.shape)
            parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)

    def _take_memory(self) -> None:
        import torch

        with torch.inference_mode(False):
            for parameter, shape in self._shapes.items():
                parameter.data = torch.empty(shape, dtype=parameter.dtype, device=parameter.device)
        self._shapes.clear()

    def close(self) -> None:
        """Drop the model. Idempotent."""
        self._model = None
        self._shapes.clear()
        self.weight_version = -1
