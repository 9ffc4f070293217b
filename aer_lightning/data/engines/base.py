"""What generates: the protocol both engines keep, and the types that cross it. No heavy imports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from aer_lightning.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import torch


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample; one value for a whole call.

    Attributes:
        temperature: the softmax temperature, > 0; 0 means greedy (evaluation only).
        max_new_tokens: upper bound on the length of a completion, in tokens, the end token included.
        top_p: nucleus mass in (0, 1]; 1 in training, where the log-probabilities must be those of the full softmax.
        top_k: number of candidates, 0 for all; 0 in training.
    """

    temperature: float
    max_new_tokens: int
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sample to draw.

    Attributes:
        prompt_ids: token ids of the prompt, at least one.
        seed: 63-bit seed of this sample; the completion depends on it, the prompt and the weights alone.
    """

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine returns for one request.

    Attributes:
        token_ids: the sampled ids, the end token included if one was sampled. Never empty. Trained on as they are.
        logprobs: log-probability of each id under the *processed* distribution (after temperature), in nat.
        finish_reason: "stop" (an end token was sampled) or "length" (truncated at ``max_new_tokens``).
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str


@runtime_checkable
class Engine(Protocol):
    """Prompts to completions, under weights that are pushed to it.

    Life: ``start`` once (expensive), then ``sync_weights`` / ``stream`` in turn, ``close`` once. Where the engine shares an accelerator
    with the trainer: ``sleep`` after the last completion of a rollout or of a whole evaluation, and before the next one
    ``sync_weights``, which wakes what holds weights, and ``wake``, which wakes the rest.

    Attributes:
        weight_version: version of the last ``sync_weights``, under which the last completions were drawn; -1 before the first.
        needs_weights: there is nothing to generate with: never synced, or the weights were given up by ``sleep``.
        weight_dtype: floating type of the served weights; known after ``start``.
    """

    weight_version: int
    weight_dtype: torch.dtype

    @property
    def needs_weights(self) -> bool:
        """See the class."""
        ...

    def start(self, model_folder: Path, *, max_model_len: int, device: torch.device, seed: int) -> None:
        """Load the architecture and the tokenizer's end tokens from a Hugging Face folder.

        Args:
            model_folder: local folder with config and weights. The weights are a starting point only.
            max_model_len: longest prompt plus completion in tokens.
            device: where the trainer's policy lives; the engine shares it.
            seed: seed of the run; individual samples carry their own.

        Raises:
            ConfigError: the engine is not installed or cannot run here; the message says what to do.
        """
        ...

    def sync_weights(self, named_weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace all weights. Names are those of the Hugging Face state dict; tensors are full, not sharded."""
        ...

    def checksums(self, names: Iterable[str]) -> dict[str, str]:
        """Checksums of served weights, for the caller to compare with the trainer's; what cannot be read back is left out.

        See :func:`~aer_lightning.data.engines.checksum.checksum`.
        """
        ...

    def stream(self, requests: Sequence[GenerationRequest], sampling: SamplingParams) -> Iterator[tuple[int, Completion]]:
        """Sample one completion per request; yield each with the index of its request as soon as it has ended.

        The completions are those of ``generate``; only their order is that of their ends.
        """
        ...

    def generate(self, requests: Sequence[GenerationRequest], sampling: SamplingParams) -> list[Completion]:
        """Sample one completion per request, in the order of the requests."""
        completions = dict(self.stream(requests, sampling))
        return [completions[index] for index in range(len(requests))]

    def sleep(self) -> None:
        """Give the accelerator's memory back, the weights' too: ``needs_weights`` until the next sync. Nothing to do on a CPU."""
        ...

    def wake(self) -> None:
        """Take back the memory that generation needs beyond the weights; after a sync. ``stream`` does it where it was not done."""
        ...

    def close(self) -> None:
        """Release everything. Idempotent."""
        ...


def check_request_lengths(requests: Sequence[GenerationRequest], sampling: SamplingParams, max_model_len: int) -> None:
    """Refuse what an engine could only truncate.

    Raises:
        ConfigError: a prompt is empty, or prompt plus ``max_new_tokens`` exceed ``max_model_len``.
    """
    for request in requests:
        length = len(request.prompt_ids)
        if not length:
            raise ConfigError("a prompt has no tokens; check the prompt template and the tokenizer")
        if length + sampling.max_new_tokens > max_model_len:
            raise ConfigError(
                f"a prompt of {length} tokens and max_new_tokens {sampling.max_new_tokens} exceed max_model_len {max_model_len}; "
                "shorten the prompts or max_new_tokens, or raise max_model_len"
            )
