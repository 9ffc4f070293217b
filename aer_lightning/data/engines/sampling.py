"""Sampling as pure functions: counter-based uniform numbers, the processed distribution, one draw a row.

Nothing here has a state. The uniform number of a token is a hash of (seed of the sample, step), so a sample is a function of its
seed, its prompt and the weights: what else is in the batch, and in which order, does not enter.
"""

from __future__ import annotations

import torch

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_BITS = 52


def _shift_right(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift of int64 (torch's own keeps the sign)."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: torch.Tensor) -> torch.Tensor:
    """The finalizer of SplitMix64, int64 in and out (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators")."""
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def uniforms(seeds: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Uniform numbers in [0, 1) that depend on (seed, step) alone.

    The seed goes through the mixer before the step is added: the streams of neighbouring seeds do not overlap.

    Args:
        seeds: ``[N]`` int64.
        steps: ``[N]`` int64, index of the token within its completion.

    Returns:
        ``[N]`` float64, multiples of 2^-52, so that ``u * total < total`` holds in float64 too.
    """
    bits = _mix(_mix(seeds + _GOLDEN) + (steps + 1) * _GOLDEN)
    return _shift_right(bits, 64 - _BITS).double() * 2.0**-_BITS


def processed_logprobs(logits: torch.Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0) -> torch.Tensor:
    """Log-probabilities of the distribution that is sampled from, in nat.

    Temperature first, then the ``top_k`` most probable tokens, then among these the smallest set whose mass reaches ``top_p``
    (Holtzman et al. 2020, "The curious case of neural text degeneration", section 3.1); what is left is renormalized.

    Args:
        logits: ``[N, V]``, any floating type.
        temperature: > 0, or 0 for greedy decoding, whose log-probabilities are those of the plain softmax.
        top_p: nucleus mass in (0, 1]; 1 keeps all.
        top_k: number of candidates; 0 keeps all.

    Returns:
        ``[N, V]`` float32, ``-inf`` for what cannot be sampled.
    """
    scores = logits.float()
    if temperature == 0:
        return scores.log_softmax(-1)
    if temperature != 1:
        scores = scores / temperature
    if 0 < top_k < scores.shape[-1]:
        weakest = scores.topk(top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < weakest, -torch.inf)
    if top_p < 1:
        ranked, order = scores.softmax(-1).sort(dim=-1, descending=True)
        # a token stays if the mass of those before it has not reached top_p: the first always stays
        beyond = ranked.cumsum(-1) - ranked >= top_p
        beyond[:, 0] = False
        scores = scores.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return scores.log_softmax(-1)


def draw(logprobs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """One token a row by inverting the cumulative distribution, in float64.

    A token of probability 0 is never drawn. One uniform number serves a row whatever the size of the vocabulary.

    Args:
        logprobs: ``[N, V]`` float32.
        u: ``[N]`` float64 in [0, 1).

    Returns:
        ``[N]`` int64.
    """
    cumulative = logprobs.double().exp_().cumsum(-1)
    threshold = u[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
