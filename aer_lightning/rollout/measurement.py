"""What is measured of a rollout once it is scored: H_k, and how far the engine's probabilities are from the trainer's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from aer_lightning.distributed import max_over_ranks, sum_over_ranks
from aer_lightning.errors import StaleWeightsError
from aer_lightning.rollout.batch import RolloutInfo
from aer_lightning.rollout.sample import Sample


def measure(
    info: RolloutInfo, samples: Sequence[Sample], device: torch.device | str = "cpu", *, mask_truncated_entropy: bool = False
) -> None:
    """Write H_k and the mismatch into ``info``, and stop a run whose engine did not have the policy's weights. Collective.

    Sums and counts over all ranks in fp64, never means of means, so that packs and ranks change nothing. With d = log pi_trainer -
    log pi_engine: ``mismatch_logprob`` mean |d|, ``mismatch_kl`` mean(exp(d) - 1 - d), the k3 estimate of KL(engine || trainer),
    ``mismatch_max_ratio`` the largest exp(d).

    Args:
        info: of the rollout.
        samples: this rank's, scored.
        device: where the backend reduces.
        mask_truncated_entropy: leave truncated completions out of H_k.

    Raises:
        StaleWeightsError: mean |d| is above ``info.max_mismatch``.
    """
    counted = [s.entropy for s in samples if s.entropy is not None and not (mask_truncated_entropy and s.truncated)]
    differences = [s.old_logprob - s.behaviour_logprob for s in samples if s.old_logprob is not None]
    d = torch.cat(differences).double() if differences else torch.zeros(0, dtype=torch.float64)
    local = [
        math.fsum(float(e.double().sum()) for e in counted),
        float(sum(len(e) for e in counted)),
        float(d.abs().sum()),
        float((d.exp() - 1 - d).sum()),
        float(len(d)),
    ]
    entropy, tokens, total, kl, count = sum_over_ranks(local, device)
    (largest,) = max_over_ranks([float(d.max()) if len(d) else -math.inf], device)
    mean = total / max(count, 1.0)
    if not mean <= info.max_mismatch:
        raise StaleWeightsError(
            f"the engine's log-probabilities differ from the policy's by {mean:.3g} nat on average, more than "
            f"data.init_args.max_mismatch={info.max_mismatch:.3g}: the engine does not run the current weights, or at too low a "
            "precision; check the engine's dtype and weight sync, or raise the limit if the difference is expected"
        )
    info.entropy = entropy / max(tokens, 1.0)
    info.stats |= {
        "mismatch_logprob": mean,
        "mismatch_kl": kl / max(count, 1.0),
        "mismatch_max_ratio": math.exp(min(largest, 80.0)),
    }
