"""How per-token losses become one number: four denominators, all of them sizes of the whole optimizer step."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from aer_lightning.algorithms.objectives.inputs import LossInputs
from aer_lightning.errors import ConfigError

Aggregation = Literal["token_mean", "sequence_mean_token_sum", "sequence_mean_token_mean", "constant_length"]


def aggregate(token_loss: Tensor, inputs: LossInputs, aggregation: Aggregation) -> Tensor:
    """Weight by ``inputs.token_weight``, sum over the micro-batch and divide by the step's size.

    With l_it the loss of token t of response i, n_i the tokens of response i, N tokens and S responses in the step and L
    the generation limit:

    * ``token_mean``: sum_it l_it / N. Long responses weigh more (DAPO, arXiv 2503.14476).
    * ``sequence_mean_token_sum``: sum_it l_it / S. The unnormalised policy gradient of an episode.
    * ``sequence_mean_token_mean``: sum_i (sum_t l_it / n_i) / S. Each response weighs the same (GRPO, arXiv 2402.03300).
    * ``constant_length``: sum_it l_it / (S L). Free of length bias, at the scale of a token (Dr. GRPO, arXiv 2503.20783).

    Args:
        token_loss: [B, T].
        inputs: gives the mask, the weights and the sizes.
        aggregation: one of the four names.

    Returns:
        A scalar; the scalars of all micro-batches and ranks add up to the loss of the step. 0 for an empty step.
    """
    check_aggregation(aggregation)
    if inputs.token_weight is not None:
        token_loss = token_loss * inputs.token_weight.detach()
    token_loss = torch.where(inputs.mask, token_loss, torch.zeros_like(token_loss))
    if aggregation == "token_mean":
        return token_loss.sum() / max(inputs.num_tokens, 1.0)
    sequences = max(inputs.num_sequences, 1.0)
    if aggregation == "sequence_mean_token_mean":
        lengths = inputs.mask.sum(-1).clamp(min=1)
        return (token_loss.sum(-1) / lengths).sum() / sequences
    if aggregation == "constant_length":
        return token_loss.sum() / (sequences * inputs.max_tokens)
    return token_loss.sum() / sequences


def check_aggregation(aggregation: str) -> None:
    """Refuse a name that is no aggregation.

    Raises:
        ConfigError: names the option and the names that exist.
    """
    if aggregation not in get_args(Aggregation):
        raise ConfigError(f"aggregation: must be one of {', '.join(get_args(Aggregation))}, got {aggregation!r}")
