"""Reads prompts from a source: shuffled by a seed, encoded, without those that cannot be used. One integer is its state."""

from __future__ import annotations

import sys
from typing import Any

from aer_lightning.data.prompts.base import Prompt, PromptSource
from aer_lightning.data.rewards import Verifier
from aer_lightning.data.seeds import permuted_index, stratified_index
from aer_lightning.errors import ConfigError, DataError

Encoded = tuple[Prompt, list[int]]


def encode(prompt: Prompt, tokenizer: Any) -> list[int]:
    """Token ids of a prompt: its text as it is, or its messages through the tokenizer's chat template.

    Raises:
        DataError: the tokenizer has no chat template, or the prompt encodes to nothing.
    """
    if prompt.messages is not None:
        if tokenizer.chat_template is None:
            raise DataError("the tokenizer has no chat template; give the prompt source a text template instead")
        ids = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    else:
        ids = tokenizer(prompt.text)["input_ids"]
    if not ids:
        raise DataError(f"prompt {prompt.id} encodes to no tokens; drop it or change the template")
    return list(ids)


class PromptStream:
    """Usable prompts of a source.

    Args:
        source: where prompts come from.
        tokenizer: of the policy.
        verifier: checks the gold answers of finite sources once and grades completions.
        max_prompt_tokens: longer prompts are dropped and counted.
        seed: of the order.
        shuffle: visit a finite source in a new seeded order on every pass; a generator is never shuffled. A source with a `period` is
            shuffled within its strata, so that every block of `period` prompts keeps its mix.

    Attributes:
        cursor: prompts read so far, dropped ones included.
        too_long: ids of dropped prompts that were too long.
        bad_gold: reasons of dropped prompts by id whose gold answer cannot be graded against.
    """

    def __init__(
        self, source: PromptSource, tokenizer: Any, verifier: Verifier, *, max_prompt_tokens: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        self.source, self.tokenizer, self.verifier = source, tokenizer, verifier
        self.max_prompt_tokens, self.seed, self.shuffle = max_prompt_tokens, seed, shuffle
        self.cursor = 0
        self.too_long: set[str] = set()
        self.bad_gold: dict[str, str] = {}
        self._indices: list[int] | None = None
        self._ready: dict[int, Encoded] = {}

    def load(self) -> None:
        """Read the source and, where it is finite, check every gold answer and length once.

        Raises:
            DataError: no prompt of the source can be used.
        """
        self.source.load()
        if len(self.source) == sys.maxsize or self._indices is not None:
            return
        prompts = [self.source[i] for i in range(len(self.source))]
        self._indices = []
        for i, (prompt, reason) in enumerate(zip(prompts, self.verifier.check_golds([p.answer for p in prompts]), strict=True)):
            if reason is not None:
                self.bad_gold[prompt.id] = reason
            elif len(encode(prompt, self.tokenizer)) > self.max_prompt_tokens:
                self.too_long.add(prompt.id)
            else:
                self._indices.append(i)
        if not self._indices:
            raise DataError(
                f"{self.source.name}: none of {len(prompts)} prompts can be used ({len(self.bad_gold)} bad gold answers, "
                f"{len(self.too_long)} longer than data.init_args.max_prompt_tokens={self.max_prompt_tokens})"
                + "".join(f"; {name}: {reason}" for name, reason in list(self.bad_gold.items())[:1])
            )

    def dropped(self) -> str:
        """One line on the prompts that cannot be used, with the first of them and why; empty if there are none."""
        if not (self.bad_gold or self.too_long):
            return ""
        named = "; ".join([*(f"{name} ({reason})" for name, reason in self.bad_gold.items()), *sorted(self.too_long)][:3])
        return (
            f"{self.source.name}: dropped {len(self.bad_gold)} prompts with bad gold answers and {len(self.too_long)} too long, "
            f"among them {named}"
        )

    @property
    def usable(self) -> int:
        """Number of usable prompts; ``sys.maxsize`` for a generator."""
        return sys.maxsize if self._indices is None else len(self._indices)

    def take(self, count: int) -> list[Encoded]:
        """The next ``count`` usable prompts with their token ids; moves the cursor.

        Raises:
            ConfigError: a finite source has fewer, so that one rollout would hold a prompt twice.
        """
        if count > self.usable:
            raise ConfigError(
                f"data.init_args.prompts_per_rollout: {count} prompts asked of {self.source.name}, which has {self.usable} usable ones"
            )
        taken: list[Encoded] = []
        dropped = 0
        while len(taken) < count:
            ready = self._ready.pop(self.cursor) if self.cursor in self._ready else None
            prompt, ids = ready if ready is not None else self._encoded(self.cursor)
            self.cursor += 1
            if len(ids) <= self.max_prompt_tokens:
                taken.append((prompt, ids))
                continue
            self.too_long.add(prompt.id)
            if (dropped := dropped + 1) > 1000 + 10 * count:
                raise ConfigError(
                    f"data.init_args.max_prompt_tokens: {dropped} prompts of {self.source.name} in a row are longer than "
                    f"{self.max_prompt_tokens} tokens; raise the limit"
                )
        return taken

    def prepare(self, count: int) -> None:
        """Encode the next ``count`` prompts without moving the cursor, so that ``take`` finds them ready; from any one thread."""
        first = self.cursor
        self._ready = {cursor: self._ready.get(cursor) or self._encoded(cursor) for cursor in range(first, first + count)}

    def _encoded(self, cursor: int) -> Encoded:
        prompt = self._at(cursor)
        return prompt, encode(prompt, self.tokenizer)

    def _at(self, cursor: int) -> Prompt:
        if self._indices is None:
            return self.source[cursor]
        size = len(self._indices)
        return self.source[self._indices[self._shuffled(cursor, size) if self.shuffle else cursor % size]]

    def _shuffled(self, cursor: int, size: int) -> int:
        period = getattr(self.source, "period", 1)
        if size < len(self.source) or size % period:  # with prompts missing, places no longer tell the stratum
            return permuted_index(cursor, size, self.seed)
        return stratified_index(cursor, size, period, self.seed)

    def all(self) -> list[Encoded]:
        """Every usable prompt of a finite source in the source's order; does not move the cursor."""
        if self._indices is None:
            raise ConfigError(f"data.init_args.evaluation: {self.source.name} has no end; give it a size")
        prompts = (self.source[i] for i in self._indices)
        return [(p, encode(p, self.tokenizer)) for p in prompts]
