"""The entropy bonus, and the mask that keeps it (or a policy loss) to the tokens of highest entropy."""

from __future__ import annotations

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
