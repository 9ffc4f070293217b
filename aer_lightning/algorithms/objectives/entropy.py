"""The entropy bonus, and what it can be kept to: the tokens of highest entropy, and the top of the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aer_lightning.errors import ConfigError


def entropy_bonus(entropy: Tensor, mask: Tensor, coefficient: Tensor, num_tokens: float) -> Tensor:
    """sum_it lambda_i H_it / N: this micro-batch's share of the entropy term, to be **subtracted** from the loss.

    The denominator is the step's token count whatever the policy loss's aggregation and whatever the mask leaves, so its size does not
    depend on accumulation, ranks or the kind of loss.

    Args:
        entropy: [B, T] entropy of each token's distribution at the sampling temperature, nat, with gradient.
        mask: [B, T] bool of the response tokens whose entropy counts.
        coefficient: [B] lambda of each response; negative pulls the entropy down.
        num_tokens: response tokens of the optimizer step over all micro-batches and ranks.

    Returns:
        A scalar in nat; the gradient flows through the entropy.
    """
    weighted = coefficient.detach()[:, None].to(entropy.dtype) * torch.where(mask, entropy, torch.zeros_like(entropy))
    return weighted.sum() / max(num_tokens, 1.0)


@dataclass(frozen=True)
class EntropyScope:
    """What an entropy bonus regularises, where it is not the whole vocabulary at every token.

    Callbacks write ``scalars()`` to the batch, the policy reads them back with ``of``.

    Args:
        top_share: the entropy is that of the distribution over the ceil(top_share V) most probable tokens, renormalised (AEnt's clamped
            entropy, arXiv 2509.03493); in (0, 1], null for the whole vocabulary.
        top_p: the same over the fewest tokens that hold this probability (SIREN's top-p mask, arXiv 2509.25133); not both.
        quantile: only tokens above the quantile of their response count, see ``peak_entropy_mask``; null for all.

    Raises:
        ConfigError: names the option.
    """

    top_share: float | None = None
    top_p: float | None = None
    quantile: float | None = None

    def __post_init__(self) -> None:
        for name in ("top_share", "top_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"{name}: the part of the vocabulary must be above 0 and at most 1, got {value}")
        if self.top_share is not None and self.top_p is not None:
            raise ConfigError("top_p: top_share cuts the same distribution; give one of them")
        if self.quantile is not None:
            check_quantile(self.quantile)

    @classmethod
    def of(cls, scalars: Mapping[str, float]) -> EntropyScope:
        """From a batch's scalars; what is not among them is not cut."""
        return cls(*(scalars.get(f"entropy_{name}") for name in ("top_share", "top_p", "quantile")))

    def scalars(self) -> dict[str, float]:
        """For a batch's scalars."""
        return {f"entropy_{name}": value for name, value in vars(self).items() if value is not None}

    def top(self) -> dict[str, Any]:
        """The options of an entropy over the top of the vocabulary (``entropy_top_share``, ``entropy_top_p``); empty for the whole."""
        return {f"entropy_{name}": getattr(self, name) for name in ("top_share", "top_p") if getattr(self, name) is not None}

    @property
    def whole(self) -> bool:
        """Whether nothing is cut."""
        return not self.scalars()

    def mask(self, entropy: Tensor, mask: Tensor) -> Tensor:
        """[B, T] the tokens of ``mask`` that count, given the entropy that is regularised."""
        return mask if self.quantile is None else peak_entropy_mask(entropy, mask, self.quantile)


def peak_entropy_mask(entropy: Tensor, mask: Tensor, quantile: float) -> Tensor:
    """The tokens whose entropy is above the quantile of their own response (SIREN's peak-entropy mask).

    Of n tokens of different entropies n - 1 - floor(quantile (n - 1)) remain: a response of one token has none. Within a response, so
    that neither micro-batches nor ranks change the choice.

    Source: SIREN, arXiv 2509.25133, eq. 9, as in its code (``mask_by_quantile``; a linearly interpolated quantile, 0.8).

    Args:
        entropy: [B, T] nat; its gradient is not used.
        mask: [B, T] bool of response tokens.
        quantile: in [0, 1).

    Returns:
        [B, T] bool.

    Raises:
        ConfigError: names ``quantile``.

    Example (of five tokens, those above the 0.5 quantile, which is 0.3 nat):
        >>> nat = torch.tensor([[0.1, 0.5, 0.3, 0.2, 0.4, 9.0]])
        >>> peak_entropy_mask(nat, torch.tensor([[True, True, True, True, True, False]]), 0.5).tolist()
        [[False, True, False, False, True, False]]
    """
    check_quantile(quantile)
    values = entropy.detach().float().masked_fill(~mask, float("nan"))
    threshold = values.nanquantile(quantile, dim=-1, keepdim=True) if values.numel() else values[:, :1]
    return mask & (values > threshold)


def check_quantile(quantile: float, name: str = "quantile") -> None:
    """Refuse a quantile outside [0, 1).

    Raises:
        ConfigError: names the option.
    """
    if not 0 <= quantile < 1:
        raise ConfigError(f"{name}: the share of a response's tokens below the mask must be at least 0 and below 1, got {quantile}")
