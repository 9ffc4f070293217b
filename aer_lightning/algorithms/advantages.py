"""From the rewards of a rollout to advantages, and DAPO's shaping of rewards and masks. Pure functions."""

from __future__ import annotations

from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from aer_lightning.errors import ConfigError

AdvantageEstimator = Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_token", "reinforce_pp_baseline"]
Number = TypeVar("Number", float, Tensor)


def check_estimator(estimator: str, group_size: int) -> None:
    """Refuse an unknown estimator, or one that compares responses of a group where a group has one response.

    Args:
        estimator: name of the advantage estimator.
        group_size: G, responses per prompt.

    Raises:
        ConfigError: names the option and what to do.
    """
    if estimator not in get_args(AdvantageEstimator):
        raise ConfigError(f"advantage_estimator: must be one of {', '.join(get_args(AdvantageEstimator))}, got {estimator!r}")
    if group_size < 2 and estimator not in ("reinforce_pp", "reinforce_pp_token"):
        raise ConfigError(
            f"responses_per_prompt: {estimator} compares the responses of one prompt and needs at least 2, got {group_size}; "
            "raise it or set advantage_estimator to reinforce_pp"
        )


def compute_advantages(rewards: Tensor, estimator: AdvantageEstimator = "grpo", eps: float = 1e-6, lengths: Tensor | None = None) -> Tensor:
    """Advantages of all responses of a rollout. ``rewards`` are those of **all ranks**: batch statistics are global.

    With r_ij the reward of response j to prompt i, m_i and s_i the mean and the sample standard deviation (divisor G - 1)
    of its group, m and s those of the whole rollout:

    * ``grpo``: (r - m_i) / (s_i + eps). GRPO, arXiv 2402.03300.
    * ``dr_grpo``: r - m_i. Without the division, which weighs up very easy and very hard prompts. Dr. GRPO, arXiv 2503.20783.
    * ``rloo``: r_ij - mean of the *other* rewards of the group, G / (G - 1) times dr_grpo. RLOO, arXiv 2402.14740.
    * ``reinforce_pp``: (r - m) / (s + eps). No group baseline. REINFORCE++, arXiv 2501.03262.
    * ``reinforce_pp_token``: the same with m and s over the rollout's *tokens*, each with its response's reward, as REINFORCE++ and its
      implementations whiten: long responses count by their length, and the advantages of all tokens have mean 0.
    * ``reinforce_pp_baseline``: (r - m_i) / (s' + eps), s' the deviation of r - m_i over the rollout; same source.

    A group of equal rewards gets exactly 0 from all but the two without a group baseline, which give 0 only to a rollout of equal rewards.

    Args:
        rewards: [P, G].
        estimator: one of the names.
        eps: added to a standard deviation.
        lengths: [P, G] tokens of each response; ``reinforce_pp_token`` needs them, the others do not read them.

    Returns:
        [P, G] in the dtype of ``rewards``, computed in fp64.

    Raises:
        ConfigError: an unknown estimator, a group of one response, a negative eps.
        ValueError: ``rewards`` is not [P, G], or ``lengths`` are missing or of another shape.
    """
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [P, G], got {tuple(rewards.shape)}")
    check_estimator(estimator, rewards.shape[1])
    if eps < 0:
        raise ConfigError(f"advantage_eps: must be at least 0, got {eps}")
    values = rewards.detach().double()
    if estimator == "reinforce_pp":
        constant = values.max() == values.min()
        # One reward alone has no sample deviation; it equals itself, so its advantage is the 0 below.
        spread = values.std() if values.numel() > 1 else values.new_ones(())
        result = (values - values.mean()) / (spread + eps)
    elif estimator == "reinforce_pp_token":
        if lengths is None or lengths.shape != rewards.shape:
            raise ValueError("reinforce_pp_token needs the lengths of the responses, [P, G] as the rewards")
        constant = values.max() == values.min()
        weights = lengths.to(values)
        tokens = weights.sum()
        mean = (weights * values).sum() / tokens.clamp(min=1)
        variance = (weights * (values - mean).square()).sum() / (tokens - 1).clamp(min=1)
        result = (values - mean) / (variance.sqrt() + eps)
    else:
        group_size = rewards.shape[1]
        # A mean of equal numbers can miss them by a rounding error, which the division by a tiny deviation would blow up.
        constant = values.amax(1, keepdim=True) == values.amin(1, keepdim=True)
        centred = torch.where(constant, torch.zeros_like(values), values - values.mean(1, keepdim=True))
        if estimator == "grpo":
            result = centred / (values.std(1, keepdim=True) + eps)
        elif estimator == "rloo":
            result = centred * group_size / (group_size - 1)
        elif estimator == "reinforce_pp_baseline":
            result = centred / (centred.std() + eps)
        else:
            result = centred
    return torch.where(constant, torch.zeros_like(result), result).to(rewards.dtype)


def is_mixed_group(accuracy: Number, tolerance: float = 0.0) -> bool | Tensor:
    """Whether a group holds both right and wrong answers: tolerance < accuracy < 1 - tolerance (DAPO's dynamic sampling).

    Takes the share of *correct* answers, never a shaped reward: a length penalty must not make an all-wrong group look mixed.
    Source: arXiv 2503.14476, the constraint of the DAPO objective.

    Args:
        accuracy: share of correct answers in [0, 1]: a float, or a tensor [P].
        tolerance: groups this close to 0 or 1 count as unmixed, in [0, 0.5).

    Returns:
        bool, or a bool tensor [P].
    """
    if not 0 <= tolerance < 0.5:
        raise ConfigError(f"tolerance: must be at least 0 and below 0.5, got {tolerance}")
    return (accuracy > tolerance) & (accuracy < 1 - tolerance)


def soft_overlong_penalty(length: Tensor, max_tokens: int, buffer: int, factor: float = 1.0) -> Tensor:
    """DAPO's soft overlong punishment: 0 up to max_tokens - buffer, then linear down to -factor at max_tokens.

    Source: arXiv 2503.14476, overlong reward shaping (L_max = max_tokens, L_cache = buffer). To be added to the reward.

    Args:
        length: [...] response lengths in tokens.
        max_tokens: the generation limit L_max.
        buffer: width L_cache of the slope in tokens, in [1, max_tokens].
        factor: penalty at and beyond the limit; the paper's is 1.

    Returns:
        [...] fp32 penalties in [-factor, 0].
    """
    if not 1 <= buffer <= max_tokens:
        raise ConfigError(f"overlong_buffer: must be from 1 to the generation limit of {max_tokens} tokens, got {buffer}")
    if factor < 0:
        raise ConfigError(f"overlong_factor: must be at least 0, got {factor}")
    start = max_tokens - buffer
    return -factor * ((length.to(torch.float32) - start) / buffer).clamp(0, 1)


def mask_truncated(mask: Tensor, truncated: Tensor) -> Tensor:
    """Take truncated responses out of the loss (DAPO's overlong filtering, arXiv 2503.14476): their outcome is not known.

    Denominators that should not count them (``num_tokens``, ``num_sequences``) are to be counted on the result.

    Args:
        mask: [B, T] bool of response tokens.
        truncated: [B] bool, True where generation stopped at the limit.

    Returns:
        [B, T] bool, all False in the rows of truncated responses.
    """
    return mask & ~truncated[:, None]
