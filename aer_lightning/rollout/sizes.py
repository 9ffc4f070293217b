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
        tokens: bound on the tokens of one pack, the forward and backward pass of one rank.
        world_size: ranks.
    """

    prompts: int
    responses: int
    steps: int
    tokens: int
    world_size: int = 1

    @property
    def sequences(self) -> int:
        """Completions of a rollout over all ranks, P x G."""
        return self.prompts * self.responses

    def problem(self) -> str | None:
        """What makes the sizes not fit together, naming the option; None if they do."""
        for name, value in (
            ("prompts_per_rollout", self.prompts),
            ("responses_per_prompt", self.responses),
            ("optimizer_steps_per_rollout", self.steps),
            ("tokens_per_micro_batch", self.tokens),
        ):
            if value < 1:
                return f"data.init_args.{name}: {value} is not positive"
        if self.prompts % self.steps:
            return (
                f"data.init_args.prompts_per_rollout: {self.prompts} prompts do not divide into {self.steps} optimizer steps; use a "
                f"multiple of {self.steps}"
            )
        if self.sequences // self.steps < self.world_size:
            return (
                f"data.init_args.prompts_per_rollout: {self.prompts} prompts x {self.responses} responses / {self.steps} optimizer steps "
                f"leave some of the {self.world_size} ranks without a sequence; use {-(-self.world_size * self.steps // self.responses)} "
                "prompts or more"
            )
        return None

    def describe(self) -> str:
        """The arithmetic, in one line.

        >>> Sizes(prompts=30, responses=8, steps=3, tokens=4096, world_size=2).describe()
        '30 prompts per rollout x 8 responses per prompt = 240 sequences; 3 optimizer steps per rollout x 80 sequences on 2 ranks, in packs of at most 4096 tokens'
        """  # noqa: E501
        ranks = f" on {self.world_size} ranks" if self.world_size > 1 else ""
        return (
            f"{self.prompts} prompts per rollout x {self.responses} responses per prompt = {self.sequences} sequences; "
            f"{self.steps} optimizer step{'s' * (self.steps > 1)} per rollout x {self.sequences // self.steps} sequences{ranks}, "
            f"in packs of at most {self.tokens} tokens"
        )
