"""The policy network: a Hugging Face causal LM that answers with token statistics instead of logits."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from aer_lightning.kernels import linear_token_stats
from aer_lightning.modules.attention import Segments, cannot_pack, use_packed_attention
from aer_lightning.rollout import Pack

Backend = Literal["auto", "reference", "torch", "triton"]


class PolicyNetwork(nn.Module):
    """Scores completions: a pack of sequences in, log-probability and entropy of each completion token out, logits never.

    The head's matrix product is fused with the statistics and done for response tokens only. It happens inside this module's
    ``forward`` so that sharding wrappers around the module have gathered the head when it is read.

    Args:
        model: a Hugging Face causal LM.
        backend: kernel backend, see ``aer_lightning.kernels``.
        memory_mb: MiB that the kernels may hold beside inputs, results and gradients; ``auto`` goes by the device's free memory.
        attn_implementation: None for this package's packed attention; a name of transformers' (``flash_attention_2``, ``sdpa``, ...)
            leaves it to that, which finds the sequences of a row by their positions.

    Attributes:
        padded: whether the model is computed in padded rectangles, because its sequences cannot share a row.
        notice: why, in a line; None otherwise.
        lora: what adapters it has, if any; ``lora_targets``, the layers' names.
    """

    def __init__(
        self,
        model: Any,
        backend: Backend = "auto",
        memory_mb: float | Literal["auto"] = "auto",
        attn_implementation: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.lora: Any = None
        self.lora_targets: list[str] = []
        self.backend = backend
        self.memory_mb = memory_mb
        self._head_cast: tuple[Any, Tensor] | None = None
        config = model.config.get_text_config()
        self.softcap = getattr(config, "final_logit_softcapping", None)
        # Cohere multiplies its logits by a constant, Granite divides them.
        self.logit_scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
        reason = cannot_pack(model)
        self.padded = reason is not None
        self.notice = f"{config.model_type} is trained in padded batches, because {reason}" if reason else None
        self.attention = attn_implementation or ("model" if self.padded else "packed")
        if self.attention == "packed":
            use_packed_attention(model)

    @property
    def shares(self) -> bool:
        """Whether what sequences have in common at their beginning is computed once: with packed attention, and never under dropout."""
        return self.attention == "packed" and not (self.training and any(isinstance(m, nn.Dropout) and m.p > 0 for m in self.modules()))

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        lengths: tuple[int, ...],
        predicting: Tensor,
        targets: Tensor,
        temperature: float,
        top: dict[str, Any] | None = None,
        places: Tensor | None = None,
        first: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Token statistics of the completion tokens under softmax(z / temperature) over the whole vocabulary.

        Args:
            input_ids: [T] the pack's sequences, one after the other, without what they share; see ``Pack``.
            position_ids: [T] positions of the tokens in their sequences.
            lengths: [b] tokens of each sequence, S in all.
            predicting: [N] place among the S of the state that predicts each completion token.
            targets: [N] the completion tokens.
            temperature: > 0.
            top: options of the kernel for a second entropy, over the top of the vocabulary; it takes the head's product twice.
            places: [S] place in the row of every token of every sequence; None where nothing is shared.
            first: [T] where in ``places`` each place of the row is met first.

        Returns:
            ``logprob`` and ``entropy``, each [N] fp32 in nat, and the second entropy if ``top`` asks for it.
        """
        if places is not None and self.shares:
            segments = Segments.of(lengths, input_ids.device, places, first)
            predicting = places[predicting]
        else:  # every sequence whole
            segments = Segments.of(lengths, input_ids.device)
            if places is not None:
                input_ids, position_ids = input_ids[places], position_ids[places]
        hidden = self._rectangle(input_ids, lengths) if self.padded else self._row(input_ids, position_ids, segments)  # [T, D]
        head = self.model.get_output_embeddings()
        states = hidden[predicting]
        options: dict[str, Any] = {
            "bias": head.bias,
            "temperature": temperature,
            "backend": self.backend,
            "memory_mb": self.memory_mb,
            "weight_cast": self._cast(head.weight),
            "softcap": self.softcap,
            "logit_scale": self.logit_scale,
        }
        statistics = linear_token_stats(states, head.weight, targets, **options)
        if not top:
            return statistics
        return *statistics, linear_token_stats(states, head.weight, targets, entropy_only=True, **top, **options)[1]

    def _cast(self, weight: Tensor) -> Tensor | None:
        """An fp32 head in the dtype of autocast: one copy that the packs of a training step share, until `release`."""
        device = weight.device.type
        if not (self.training and torch.is_grad_enabled() and torch.is_autocast_enabled(device) and weight.dtype == torch.float32):
            return None
        dtype = torch.get_autocast_dtype(device)
        key = (weight.untyped_storage()._cdata, weight._version, dtype)  # a fake tensor has no data_ptr
        if self._head_cast is None or self._head_cast[0] != key:
            self._head_cast = key, weight.detach().to(dtype)
        return self._head_cast[1]

    def release(self) -> None:
        """Let go of what the packs of a step share; backward passes that still need it keep it."""
        self._head_cast = None

    def score(self, pack: Pack, temperature: float, top: dict[str, Any] | None = None) -> tuple[Tensor, ...]:
        """``forward`` of a pack that lies on this network's device."""
        row = pack.input_ids, pack.position_ids, pack.lengths, pack.predicting, pack.targets
        return self(*row, temperature, top, pack.places, pack.first)

    def _row(self, input_ids: Tensor, position_ids: Tensor, segments: Segments) -> Tensor:
        arguments: dict[str, Any] = {}
        if self.attention == "packed":
            arguments["segments"] = segments
        elif "flash" in self.attention:
            longest = max(segments.lengths)
            arguments |= {"cu_seq_lens_q": segments.offsets, "cu_seq_lens_k": segments.offsets}
            arguments |= {"max_length_q": longest, "max_length_k": longest}
        return self.model.base_model(input_ids=input_ids[None], position_ids=position_ids[None], use_cache=False, **arguments)[0][0]

    def _rectangle(self, input_ids: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """Padded on the right, where a causal layer's padding changes nothing, and therefore without a mask."""
        rows = pad_sequence(list(input_ids.split(list(lengths))), batch_first=True)
        hidden = self.model.base_model(input_ids=rows, use_cache=False)[0]  # [b, L, D]
        real = torch.arange(rows.shape[1], device=rows.device)[None] < torch.tensor(lengths, device=rows.device)[:, None]
        return hidden[real]
