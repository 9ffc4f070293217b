"""From rewards to advantages: which groups stay, what is added to a reward, how a group is compared."""

from __future__ import annotations

from dataclasses import dataclass

from aer_lightning.algorithms.advantages import AdvantageEstimator, is_mixed_group
from aer_lightning.errors import ConfigError


@dataclass(frozen=True)
class DynamicSampling:
    """Draw further prompts until the rollout has P groups that hold both right and wrong answers (DAPO, arXiv 2503.14476).

    Looks at accuracy, never at a shaped reward. After ``max_tries`` rounds of P prompts the rollout is filled up with groups
    that were left out, in their order, and the number is logged as ``rollout/filled_groups``.

    Args:
        max_tries: rounds of generation, at least 1.
        tolerance: groups whose accuracy is this close to 0 or 1 are left out too, in [0, 0.5).
        keep_all_wrong: keep groups without a right answer. Their advantage is 0 and their AER weight the largest, so only entropy
            moves them; without this, they are gone before AER sees them.
    """

    max_tries: int = 4
    tolerance: float = 0.0
    keep_all_wrong: bool = False

    def __post_init__(self) -> None:
        if self.max_tries < 1:
            raise ConfigError(f"dynamic_sampling.max_tries: {self.max_tries} is not positive")
        is_mixed_group(0.5, self.tolerance)

    def keeps(self, accuracy: float) -> bool:
        """Whether a group of this accuracy stays."""
        return bool(is_mixed_group(accuracy, self.tolerance)) or (self.keep_all_wrong and accuracy <= self.tolerance)


@dataclass(frozen=True)
class OverlongPenalty:
    """Soft penalty on completions close to the length limit (DAPO, arXiv 2503.14476), added to the reward, not to the accuracy.

    Args:
        buffer: width in tokens of the slope below the limit.
        factor: penalty at the limit.
    """

    buffer: int
    factor: float = 1.0


@dataclass(frozen=True)
class Shaping:
    """How rewards become advantages.

    Attributes:
        advantage: name of the estimator.
        advantage_eps: added to its standard deviation.
        overlong: penalty on long completions, or None.
        dynamic: dynamic sampling, or None.
        mask_truncated: leave truncated completions out of the policy loss.
        mask_truncated_entropy: leave them out of H_k and of the entropy bonus.
    """

    advantage: AdvantageEstimator = "grpo"
    advantage_eps: float = 1e-6
    overlong: OverlongPenalty | None = None
    dynamic: DynamicSampling | None = None
    mask_truncated: bool = False
    mask_truncated_entropy: bool = False
