"""Generation with a Hugging Face model on the trainer's device: no server, bit-identical on every run, for any architecture it knows.

What it does beyond a plain ``generate`` call: a prompt that several requests share is read once; a row that has ended leaves the
batch at once and a waiting request takes its place; every sample has its own counter-based random numbers, so it is the same
whatever it was batched with (up to the rounding of the matrix products, about 1e-6 nat).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aer_lightning.data.engines.base import Completion, Engine, GenerationRequest, SamplingParams, check_request_lengths
from aer_lightning.data.engines.folder import WeightNames, end_token_ids, load_config
from aer_lightning.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from aer_lightning.data.engines.row_cache import RowCache

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
# columns of the state of a row, one int64 tensor so that a row is moved by one copy
_REQUEST, _SEED, _STEP, _START, _TOKEN = range(5)


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

    def start(self, model_folder: Path, *, max_model_len: int, device: torch.device, seed: int) -> None:
        """Build the architecture; the weights come with :meth:`sync_weights`. ``seed`` is not used: samples have their own.

        Raises:
            ConfigError: the architecture has layers other than attention, whose state this engine's cache does not hold.
            DataError: no configuration, or no end token.
        """
        import torch
        from transformers import AutoModelForCausalLM

        from aer_lightning.data.engines.attention import use_grouped_decode

        config = load_config(model_folder, self.trust_remote_code)
        others = set(getattr(config.get_text_config(), "layer_types", None) or ()) - _ATTENTION_LAYERS
        if others:
            raise ConfigError(f"TransformersEngine cannot decode {config.model_type} ({', '.join(sorted(others))} layers); use VLLMEngine")
        self._ends = end_token_ids(model_folder, config, self.trust_remote_code)
        self._device = torch.device(device)
        self._max_model_len = max_model_len
        name = self.dtype if self.dtype != "auto" else ("float32" if self._device.type == "cpu" else "bfloat16")
        # initial weights are random and thrown away: the run's random numbers must not notice
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []), self._device:
            self._model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, name), trust_remote_code=self.trust_remote_code)
        self._model.eval().requires_grad_(False)
        use_grouped_decode(self._model)
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
        self._wake()
        self.weight_version = -1
        targets = self._model.state_dict()
        with torch.no_grad():
            for name, tensor in self._names.checked(named_weights):
                targets[name].copy_(tensor)
        self.weight_version = version

    def generate(self, requests: Sequence[GenerationRequest], sampling: SamplingParams) -> list[Completion]:
        """Sample one completion per request, in their order.

        Raises:
            ConfigError: a prompt is empty, or prompt plus ``max_new_tokens`` exceed ``max_model_len``.
        """
        import torch

        if self._model is None or self.weight_version < 0:
            raise RuntimeError("TransformersEngine.generate before the first sync_weights")
        check_request_lengths(requests, sampling, self._max_model_len)
        if not requests:
            return []
        self._wake()
        # an autocast context of the trainer must not reach in: the engine's dtype is its own
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=False):
            return _Decoding(self, requests, sampling).run()

    def sleep(self) -> None:
        """On an accelerator the weights move to host memory until they are needed; nothing to do on a CPU."""
        import torch

        if self._model is not None and self._device.type == "cuda":
            self._model.to("cpu")
            torch.cuda.empty_cache()

    def _wake(self) -> None:
        if self._device.type == "cuda":
            self._model.to(self._device)

    def close(self) -> None:
        """Drop the model. Idempotent."""
        self._model = None
        self.weight_version = -1


class _Decoding:
    """One ``generate`` call: the rows being decoded, the requests that wait, and what was sampled so far."""

    def __init__(self, engine: TransformersEngine, requests: Sequence[GenerationRequest], sampling: SamplingParams) -> None:
        import torch

        from aer_lightning.data.engines.row_cache import RowCache

        self.engine, self.sampling, self.device = engine, sampling, engine._device
        # longest first: rows that enter later are padded to the cursor, and never have to push it; equal prompts side by side
        self.order = sorted(range(len(requests)), key=lambda index: (-len(requests[index].prompt_ids), requests[index].prompt_ids))
        self.prompts = [requests[index].prompt_ids for index in self.order]
        self.seeds = [requests[index].seed for index in self.order]
        self.waiting = 0  # first request, in that order, that has not entered
        self.rows_limit = min(engine.max_batch_size, len(requests))
        # without padding no mask is needed, and attention without a mask is faster
        self.padded = len(self.prompts[0]) != len(self.prompts[-1]) or len(requests) > self.rows_limit
        self.cache: RowCache = RowCache(self.rows_limit, cursor=len(self.prompts[0]))
        self.state = torch.zeros(0, 5, dtype=torch.int64, device=self.device)
        size = (len(requests), sampling.max_new_tokens)
        self.tokens = torch.zeros(size, dtype=torch.int64, device=self.device)
        self.logprobs = torch.zeros(size, dtype=torch.float32, device=self.device)
        self.lengths = torch.zeros(len(requests), dtype=torch.int64, device=self.device)

    def run(self) -> list[Completion]:
        """Decode until every request has its completion."""
        while self.waiting < len(self.prompts) or self.cache.rows:
            free, left = self.rows_limit - self.cache.rows, len(self.prompts) - self.waiting
            # reading a prompt is a pass of its own: worth it for a quarter of the batch, or for all that is left
            if left and (free >= min(left, max(1, self.rows_limit // 4))):
                self._admit(min(free, left))
            if self.cache.rows:
                self._step()
        return self._completions()

    def _admit(self, count: int) -> None:
        """Read the prompts of ``count`` waiting requests, each distinct prompt once, and sample their first tokens."""
        import torch
        from transformers import DynamicCache

        first, last = self.waiting, self.waiting + count
        self.waiting = last
        distinct: dict[tuple[int, ...], int] = {}
        source = [distinct.setdefault(prompt, len(distinct)) for prompt in self.prompts[first:last]]
        unique = list(distinct)
        per_pass = max(1, self.engine.max_prefill_tokens // max(map(len, unique)))
        begin = 0
        while begin < count:
            low = source[begin]  # equal prompts stand side by side, so ``source`` never decreases
            chunk = unique[low : low + per_pass]
            end = begin + sum(low <= index < low + len(chunk) for index in source)
            width = max(map(len, chunk))
            padded = torch.tensor([(0,) * (width - len(prompt)) + prompt for prompt in chunk], device=self.device)
            pads = torch.tensor([width - len(prompt) for prompt in chunk], device=self.device)
            columns = torch.arange(width, device=self.device)
            prefilled = DynamicCache()
            output = self.engine._model(
                input_ids=padded,
                attention_mask=(columns >= pads[:, None]).long() if self.padded else None,
                position_ids=(columns - pads[:, None]).clamp(min=0),
                past_key_values=prefilled,
                use_cache=True,
                logits_to_keep=1,
            )
            rows = torch.tensor(source[begin:end], device=self.device) - low
            state = torch.zeros(end - begin, 5, dtype=torch.int64, device=self.device)
            state[:, _REQUEST] = torch.arange(first + begin, first + end, device=self.device)
            state[:, _SEED] = torch.tensor(self.seeds[first + begin : first + end], device=self.device)
            state[:, _START] = self.cache.cursor - width + pads[rows]
            self.cache.admit(prefilled, rows)
            self.state = torch.cat([self.state, state])
            self._sample(output.logits[rows, -1], self.cache.rows - (end - begin))
            begin = end

    def _step(self) -> None:
        """One token for every row."""
        import torch

        longest = len(self.prompts[self.waiting]) if self.waiting < len(self.prompts) else 0
        if self.cache.is_full():
            padding = min(int(self.state[:, _START].min()), self.cache.cursor - longest)
            self.state[:, _START] -= self.cache.make_room(padding)
        start, cursor = self.state[:, _START, None], self.cache.cursor
        output = self.engine._model(
            input_ids=self.state[:, _TOKEN, None],
            attention_mask=(torch.arange(cursor + 1, device=self.device) >= start).long() if self.padded else None,
            position_ids=cursor - start,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache.cursor += 1
        self._sample(output.logits[:, -1], 0)

    def _sample(self, logits: torch.Tensor, first_row: int) -> None:
        """Draw a token for the rows from ``first_row`` on (logits ``[N, V]``), note it, and drop the rows that have ended."""
        import torch

        from aer_lightning.data.engines import sampling as pure

        s, state = self.sampling, self.state[first_row:]
        logprobs = pure.processed_logprobs(logits, s.temperature, s.top_p, s.top_k)
        token = logprobs.argmax(-1) if s.temperature == 0 else pure.draw(logprobs, pure.uniforms(state[:, _SEED], state[:, _STEP]))
        request, step = state[:, _REQUEST], state[:, _STEP]
        self.tokens[request, step] = token
        self.logprobs[request, step] = logprobs.gather(-1, token[:, None]).squeeze(-1)
        state[:, _TOKEN] = token
        state[:, _STEP] += 1
        ended = torch.isin(token, self.engine._end_tensor) | (state[:, _STEP] >= s.max_new_tokens)
        gone = ended.nonzero().squeeze(-1)
        if not len(gone):
            return
        self.lengths[state[gone, _REQUEST]] = state[gone, _STEP]
        kept = len(self.state) - len(gone)
        gone = gone + first_row
        holes = gone[gone < kept]
        tail = torch.ones(len(self.state) - kept, dtype=torch.bool, device=self.device)
        tail[gone[gone >= kept] - kept] = False
        movers = tail.nonzero().squeeze(-1) + kept
        self.cache.drop(holes, movers, kept)
        self.state[holes] = self.state[movers]
        self.state = self.state[:kept]

    def _completions(self) -> list[Completion]:
        lengths, tokens, logprobs = self.lengths.tolist(), self.tokens.tolist(), self.logprobs.tolist()
        ends = set(self.engine._ends)
        result: list[Completion | None] = [None] * len(lengths)
        for place, index in enumerate(self.order):
            ids = tokens[place][: lengths[place]]
            result[index] = Completion(ids, logprobs[place][: lengths[place]], "stop" if ids[-1] in ends else "length")
        return [completion for completion in result if completion is not None]
