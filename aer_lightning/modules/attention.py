"""Attention over a pack: each sequence of a row attends to itself alone, causally, and nothing is padded away in a mask.

Tokens that several sequences share stand in the row once. Attention sees the sequences whole: they are put together from the row and
their results are put back. On a GPU in half precision that is one variable-length flash attention call. Elsewhere sequences of like length
are computed side by side: right of a sequence's end stand rows that a causal product never lets it see, so the result is exact and no mask
is built. A sliding window gets its band.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NAME = "aer_packed"
# A call costs about as much as this many query-key pairs of one head: sequences whose padding is cheaper share a call.
CALL_PAIRS = 160**2


@dataclass(frozen=True)
class Segments:
    """Where the sequences of a row lie.

    Attributes:
        lengths: [b] tokens of each sequence, S in all.
        offsets: [b + 1] int32 on the row's device, where each begins among the S.
        places: [S] place in the row of each token; None if that is where it lies among the S, nothing being shared.
        first: [T] where among the S the result of each place of the row is taken from; None likewise.
        groups: sequences computed side by side away from flash attention, with their rows: ``(n, longest, [n * longest] places)``.
        inverse: [T] where each token's result lies in the concatenated results of the groups.
    """

    lengths: tuple[int, ...]
    offsets: Tensor
    places: Tensor | None = None
    first: Tensor | None = None
    groups: list[tuple[int, int, Tensor]] = field(default_factory=list)
    inverse: Tensor | None = None

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device, places: Tensor | None = None, first: Tensor | None = None) -> Segments:
        """Segments of a row of sequences of these lengths; ``places`` and ``first`` as in ``Pack``, None where nothing is shared."""
        sizes = np.array(lengths, dtype=np.int64)
        starts = np.concatenate((np.zeros(1, dtype=np.int64), sizes.cumsum()))
        if places is not None and first is not None and len(first) == starts[-1]:
            places = first = None
        offsets = torch.from_numpy(starts.astype(np.int32)).to(device)
        groups, inverse, base = [], np.empty(starts[-1], dtype=np.int64), 0
        for members in like_lengths(lengths):
            longest = lengths[members[0]]
            steps = np.arange(longest)[None]
            real = steps < sizes[members][:, None]
            begins = starts[members][:, None]
            tokens = np.where(real, begins + steps, begins)  # right of the end any token will do: nothing before it sees it
            inverse[tokens[real]] = base + np.flatnonzero(real)
            whole = torch.from_numpy(tokens.flatten()).to(device)
            groups.append((len(members), longest, whole if places is None else places[whole]))
            base += tokens.size
        results = torch.from_numpy(inverse).to(device)
        return cls(lengths, offsets, places, first, groups, results if first is None else results[first])


def like_lengths(lengths: tuple[int, ...]) -> list[list[int]]:
    """Sequences grouped so that padding to the longest of a group costs less than another call.

    Example (128 and 100 share a call, 2000 has its own):
        >>> like_lengths((100, 2000, 128))
        [[1], [2, 0]]
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and lengths[groups[-1][0]] ** 2 - lengths[i] ** 2 <= CALL_PAIRS:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _band(length: int, window: int, device: torch.device) -> Tensor:
    # Made anew for each layer: kept between calls it would hold the device's memory, or be a fake tensor of the plan's.
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None]
    return (distance >= 0) & (distance < window)


@torch.compiler.disable
def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Segments | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence; query ``[1, H, T, D]``, key and value ``[1, H / groups, T, D]``.

    Without ``segments`` each row of a batch ``[B, H, L, D]`` is one sequence, padded on the right if at all.

    Returns:
        ``[1, T, H, D]`` (``[B, L, H, D]``) and None, as transformers expects.
    """
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    longest = query.shape[2] if segments is None else max(segments.lengths)
    window = sliding_window if sliding_window is not None and sliding_window < longest else None
    if segments is None:
        return _attend(query, key, value, scaling, window, softcap).transpose(1, 2), None
    if query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16) and softcap is None and query.shape[-1] <= 256:
        return _flash(query, key, value, segments, scaling, window), None
    results = []
    for count, longest, places in segments.groups:
        q, k, v = (
            t[0].index_select(1, places).unflatten(1, (count, longest)).transpose(0, 1)  # [n, H, L, D]
            for t in (query, key, value)
        )
        group_window = window if window is not None and window < longest else None
        out = _attend(q, k, v, scaling, group_window, softcap)
        results.append(out.transpose(1, 2).flatten(0, 1))  # [n * L, H, D]
    assert segments.inverse is not None
    return torch.cat(results).index_select(0, segments.inverse)[None], None


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None, softcap: float | None) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    if softcap is not None:
        return _softcapped(query, key, value, scaling, window, softcap)
    if window is not None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=_band(query.shape[2], window, query.device), scale=scaling, enable_gqa=grouped
        )
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)


def _softcapped(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None, softcap: float) -> Tensor:
    """Scores through softcap * tanh(score / softcap) before the softmax (Gemma 2, arXiv 2408.00118)."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(-1, -2) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    scores = torch.tanh(scores / softcap) * softcap
    length = query.shape[2]
    scores = scores.masked_fill(~_band(length, window or length, query.device), float("-inf"))
    return torch.softmax(scores.float(), -1).to(value.dtype) @ value


def _flash(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))  # [T, H, D]
    if segments.places is not None:
        q, k, v = (t.index_select(0, segments.places) for t in (q, k, v))  # [S, H, D]
    longest = max(segments.lengths)
    left = -1 if window is None else window - 1
    out: Any = varlen_attn(
        q,
        k,
        v,
        segments.offsets,
        segments.offsets,
        longest,
        longest,
        scale=scaling,
        window_size=(left, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return (out if segments.first is None else out.index_select(0, segments.first))[None]


def cannot_pack(model: Any) -> str | None:
    """Why the sequences of a pack of this model cannot be kept apart by its attention; None if they can.

    Such a model is computed in padded rectangles: every layer but attention over a whole row would let one sequence see another.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention", "attention"}
    if kinds:
        return f"it has layers of the kind {', '.join(sorted(kinds))}"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    if any(hasattr(m, "sinks") for m in model.modules()):
        return "its attention has sinks"
    if getattr(model, "_is_stateful", False):
        return "it carries a state from token to token"
    return None


def use_packed_attention(model: Any) -> None:
    """Let a model attend through :func:`packed_attention`; no mask is built for it."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
    model.set_attn_implementation(NAME)
