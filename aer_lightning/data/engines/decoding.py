"""The decoding loop of the transformers engine: rows that come and go. Imported when generation starts, because it needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from aer_lightning.data.engines import sampling as pure
from aer_lightning.data.engines.base import Completion, GenerationRequest, SamplingParams
from aer_lightning.data.engines.row_cache import RowCache

if TYPE_CHECKING:
    from aer_lightning.data.engines.transformers import TransformersEngine

# columns of the state of a row, one int64 tensor so that a row is moved by one copy
_REQUEST, _SEED, _STEP, _START, _TOKEN = range(5)


class Decoding:
    """One ``generate`` call: the rows being decoded, the requests that wait, and what was sampled so far."""

    def __init__(self, engine: TransformersEngine, requests: Sequence[GenerationRequest], sampling: SamplingParams) -> None:
        self.engine, self.sampling, self.device = engine, sampling, engine._device
        self.ends = set(engine._ends)
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
        self.ended: list[torch.Tensor] = []  # [M, 2]: place and length of completions that have ended since the last ``advance``

    def done(self) -> bool:
        """Whether every request has its completion."""
        return self.waiting == len(self.prompts) and not self.cache.rows

    def advance(self) -> list[tuple[int, Completion]]:
        """Let waiting requests enter where there is room, then decode one token a row; returns what has ended, with its index."""
        free, left = self.rows_limit - self.cache.rows, len(self.prompts) - self.waiting
        # reading a prompt is a pass of its own: worth it for a quarter of the batch, or for all that is left
        if left and free >= min(left, max(1, self.rows_limit // 4)):
            self._admit(min(free, left))
        if self.cache.rows:
            self._step()
        ended, self.ended = self.ended, []
        return [completion for places in ended for completion in self._completions(places)]

    def _admit(self, count: int) -> None:
        """Read the prompts of ``count`` waiting requests, each distinct prompt once, and sample their first tokens."""
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
        self.ended.append(state[gone][:, [_REQUEST, _STEP]])
        kept = len(self.state) - len(gone)
        gone = gone + first_row
        holes = gone[gone < kept]
        tail = torch.ones(len(self.state) - kept, dtype=torch.bool, device=self.device)
        tail[gone[gone >= kept] - kept] = False
        movers = tail.nonzero().squeeze(-1) + kept
        self.cache.drop(holes, movers, kept)
        self.state[holes] = self.state[movers]
        self.state = self.state[:kept]

    def _completions(self, places: torch.Tensor) -> Iterator[tuple[int, Completion]]:
        rows = places[:, 0]
        tokens, logprobs = self.tokens[rows].tolist(), self.logprobs[rows].tolist()
        for (place, length), ids, values in zip(places.tolist(), tokens, logprobs, strict=True):
            reason = "stop" if ids[length - 1] in self.ends else "length"
            yield self.order[place], Completion(ids[:length], values[:length], reason)
