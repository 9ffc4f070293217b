"""The one vocabulary of sizes, and its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The one vocabulary of sizes.

    Attributes:
        prompts: prompts per rollout over all ranks, P.
        responses: responses per prompt, G.
        steps: optimizer steps per rollout, k.
        micro_batch: sequences per micro-batch and rank.
        world_size: ranks.
    """

    prompts: int
    responses: int
    steps: int
    micro_batch: int
    world_size: int = 1

    @property
    def sequences(self) -> int:
        """Completions per rollout over all ranks."""
        return self.prompts * self.responses

    @property
    def accumulate(self) -> int:
        """Micro-batches per optimizer step on one rank."""
        return self.sequences // (self.steps * self.world_size * self.micro_batch)

    @property
    def micro_batches(self) -> int:
        """Micro-batches per rollout on one rank."""
        return self.accumulate * self.steps

    def problem(self) -> str | None:
        """Why these sizes do not fit together, naming the option; None if they do."""
        for name, value in (
            ("prompts_per_rollout", self.prompts),
            ("responses_per_prompt", self.responses),
            ("optimizer_steps_per_rollout", self.steps),
            ("micro_batch_size", self.micro_batch),
        ):
            if value < 1:
                return f"data.init_args.{name}: {value} is not positive"
        if self.prompts % (self.steps * self.world_size):
            return (
                f"data.init_args.prompts_per_rollout: {self.prompts} prompts do not divide into {self.steps} optimizer steps x "
                f"{self.world_size} ranks; use a multiple of {self.steps * self.world_size}"
            )
        share = self.sequences // (self.steps * self.world_size)
        if share % self.micro_batch:
            return (
                f"data.init_args.micro_batch_size: {self.micro_batch} does not divide the {share} sequences of an optimizer step on one "
                f"rank ({self.prompts} x {self.responses} / {self.steps} steps / {self.world_size} ranks); use a divisor of {share}"
            )
        return None

    def describe(self) -> str:
        """The arithmetic, in one line."""
        ranks = f" x {self.world_size} ranks" if self.world_size > 1 else ""
        return (
            f"{self.prompts} prompts per rollout x {self.responses} responses per prompt = {self.sequences} sequences; "
            f"{self.steps} optimizer step{'s' * (self.steps > 1)} per rollout x {self.accumulate} micro-batches{ranks} x "
            f"{self.micro_batch} sequences"
        )
