"""Collects a rollout: generate, verify, score, compare the engine with the trainer, advantages."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from aer_lightning.data.credit import assign_advantages, covariance_statistics, denominators
from aer_lightning.data.engines.base import Completion, Engine, GenerationRequest, SamplingParams
from aer_lightning.data.figures import group_figures, outcome_rates, part_means, tokens_by_correct
from aer_lightning.data.grading import generate_and_grade
from aer_lightning.data.rewards import Grade, OutcomeLimits, Verifier
from aer_lightning.data.seeds import sample_seed
from aer_lightning.data.shaping import Shaping
from aer_lightning.data.stream import Encoded, PromptStream
from aer_lightning.data.turns import EngineTurns, Memory
from aer_lightning.distributed import exchange, gather_objects, sum_over_ranks
from aer_lightning.errors import StaleWeightsError
from aer_lightning.rollout import Outcome, Pack, Rollout, RolloutInfo, Sample, Sizes, deal, make_pack, measure, padding_share, plan_packs

Group = list[Sample]
Shares = list[list[list[Any]]]  # something of each sequence, [steps][ranks][sequences]


class Policy(Protocol):
    """What the data needs of the policy module."""

    weight_version: int
    needs_reference: bool
    needs_scoring: bool
    padded: bool
    memory: Memory
    kl_weight: float
    kl_in: str
    objective: Any
    device: torch.device

    def full_weights(self) -> Any:
        """(name, full tensor) pairs; collective under sharding."""

    def score(self, pack: Pack, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of a pack's completion tokens, [N] each."""

    def score_reference(self, pack: Pack, temperature: float) -> Tensor:
        """The reference's log-probability, [N]."""


class Collector:
    """Turns prompts into rollouts under the policy's current weights.

    Args:
        engine: generates; started.
        policy: the policy module.
        tokenizer: decodes completions for the verifier.
        run_seed: seed of the run.
        max_mismatch: mean absolute difference in nat between the engine's and the trainer's log-probabilities above which the
            run stops.
        limits: what to do when too many verdicts of a rollout are not honest ones; None for nothing.
        sleep: whether the engine gives its memory back after generating.
        scoring_pass: ``auto`` leaves it out where the training forward can be it; ``always`` never does.
        scoring_tokens: bound on the tokens of a pack that is scored without gradient.
    """

    def __init__(
        self,
        engine: Engine,
        policy: Policy,
        tokenizer: Any,
        *,
        run_seed: int,
        max_mismatch: float = math.inf,
        limits: OutcomeLimits | None = None,
        sleep: bool = False,
        scoring_pass: Literal["auto", "always"] = "auto",
        scoring_tokens: int = 65536,
    ) -> None:
        self.engine, self.policy, self.tokenizer = engine, policy, tokenizer
        self.turns = EngineTurns(engine, policy, sleep)
        self.run_seed, self.max_mismatch, self.limits = run_seed, max_mismatch, limits
        self.scoring_pass, self.scoring_tokens = scoring_pass, scoring_tokens

    # -- generation and verification --------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """End the engine's turn; see :class:`~aer_lightning.data.turns.EngineTurns`."""
        self.turns.rest()

    def complete(
        self, prompts: Sequence[Encoded], samples: int, sampling: SamplingParams, *, rollout: int, attempt: int = 0
    ) -> tuple[list[Completion], list[str]]:
        """Draw ``samples`` completions for each prompt under the policy's current weights. Collective under sharding.

        Args:
            prompts: this rank's prompts with their token ids.
            samples: completions per prompt.
            sampling: how to sample.
            rollout: index of the rollout, part of the seeds; -1 for evaluation.
            attempt: round of dynamic sampling, part of the seeds.

        Returns:
            The completions, those of one prompt side by side, and their texts.
        """
        arriving = dict(self._start(prompts, samples, sampling, rollout, attempt))
        completions = [arriving[i] for i in range(len(arriving))]
        return completions, [self._decode(c) for c in completions]

    def _start(
        self, prompts: Sequence[Encoded], samples: int, sampling: SamplingParams, rollout: int, attempt: int
    ) -> Iterable[tuple[int, Completion]]:
        self.turns.sync()
        requests = [
            GenerationRequest(tuple(ids), sample_seed(self.run_seed, prompt.id, rollout, i, attempt))
            for prompt, ids in prompts
            for i in range(samples)
        ]
        return self.turns.stream(requests, sampling)

    def _decode(self, completion: Completion) -> str:
        return self.tokenizer.decode(completion.token_ids, skip_special_tokens=True)

    def sample_groups(
        self, prompts: Sequence[Encoded], samples: int, sampling: SamplingParams, *, rollout: int, verifier: Verifier, attempt: int = 0
    ) -> list[Group]:
        """Draw ``samples`` completions for each prompt, as ``complete`` does, and grade them with ``verifier`` as they end."""
        asked = [(prompt.answer, prompt.content) for prompt, _ in prompts for _ in range(samples)]
        arriving = self._start(prompts, samples, sampling, rollout, attempt)
        completions, texts, grades = generate_and_grade(arriving, self._decode, asked, verifier)
        groups = []
        for n, (prompt, ids) in enumerate(prompts):
            group = []
            for i in range(samples):
                completion, grade = completions[n * samples + i], grades[n * samples + i]
                group.append(
                    Sample(
                        prompt_id=prompt.id,
                        label=prompt.label,
                        index=i,
                        sequence=n * samples + i,
                        prompt_ids=list(ids),
                        token_ids=completion.token_ids,
                        behaviour_logprob=torch.tensor(completion.logprobs, dtype=torch.float32),
                        finish_reason=completion.finish_reason,
                        outcome=grade.outcome.value,
                        text=texts[n * samples + i],
                        extracted=grade.extracted,
                        answer=prompt.answer,
                        reason=grade.reason,
                        score=grade.reward,
                        parts=grade.parts,
                        reward=grade.reward,
                    )
                )
            accuracy = sum(s.correct for s in group) / len(group)
            for s in group:
                s.group_accuracy = accuracy
            groups.append(group)
        return groups

    # -- scoring ----------------------------------------------------------------------------------------------------------------

    def score(self, samples: Sequence[Sample], temperature: float, packs: Sequence[Sequence[int]], policy: bool = True) -> None:
        """Write the policy's log-probabilities and entropies before the update, and the reference's if a KL term needs them.

        Args:
            samples: of this rank.
            temperature: of sampling.
            packs: which samples are computed together; every rank has the same number.
            policy: whether the policy is asked; if not, the training forward measures it.
        """
        for places in packs:
            pack = make_pack([samples[i] for i in places], places)
            ordered = [samples[i] for i in pack.index.tolist()]
            if policy:
                logprob, entropy = (pack.split(t.cpu()) for t in self.policy.score(pack, temperature))
                for s, before, nats in zip(ordered, logprob, entropy, strict=True):
                    s.old_logprob, s.entropy = before.clone(), nats.clone()
            if self.policy.needs_reference:
                for s, values in zip(ordered, pack.split(self.policy.score_reference(pack, temperature).cpu()), strict=True):
                    s.reference_logprob = values.clone()

    # -- the whole ----------------------------------------------------------------------------------------------------------------

    def collect(self, stream: PromptStream, index: int, sizes: Sizes, sampling: SamplingParams, shaping: Shaping, rank: int) -> Rollout:
        """Collect rollout number ``index``: this rank's share of it, in training order.

        The prompts of optimizer step j are the j-th P/k of the rollout. A rank generates for every ``world_size``-th of them; then the
        sequences of each step are dealt anew, so that the ranks' tokens balance. Each step trains on the same sequences whatever the
        number of ranks.
        """
        device = self.policy.device
        started = time.perf_counter()
        groups, extra = self._groups(stream, index, sizes, sampling, shaping, rank)
        drawn_with = self.engine.weight_version
        self.rest()
        generated = time.perf_counter()
        self._check_verdicts([s for group in groups for s in group])
        stats = group_figures(groups, device) | outcome_rates([s for group in groups for s in group], device) | extra
        stats |= part_means([s for group in groups for s in group], getattr(stream.verifier, "reward_names", ()), device)
        steps, lengths, prompts = self._deal(groups, sizes, rank)
        packs = [plan_packs(step, sizes.tokens, self.policy.padded, of) for step, of in zip(lengths, prompts, strict=True)]
        samples = [s for step in steps for s in step]
        scored = self.scoring_pass == "always" or sizes.steps > 1 or self.policy.needs_scoring
        if scored or self.policy.needs_reference:
            whole, of = ([[n for step in each for n in step[r]] for r in range(sizes.world_size)] for each in (lengths, prompts))
            self.score(samples, sampling.temperature, plan_packs(whole, self.scoring_tokens, self.policy.padded, of)[rank], policy=scored)
        num_tokens = int(sum_over_ranks([float(sum(len(s.token_ids) for s in samples))], device)[0])
        info = RolloutInfo(
            index,
            self.policy.weight_version,
            sampling.temperature,
            math.nan,
            num_tokens,
            sizes.sequences,
            stats,
            tokens_by_correct(samples, sizes.responses, device),
            max_mismatch=self.max_mismatch,
        )
        if drawn_with != self.policy.weight_version:
            raise StaleWeightsError(
                f"the engine generated with weight version {drawn_with}, the policy is at {self.policy.weight_version}; "
                "weights changed between generation and scoring"
            )
        if scored:
            measure(info, samples, device, mask_truncated_entropy=shaping.mask_truncated_entropy)
        assign_advantages(samples, sizes, sampling.max_new_tokens, shaping, self.policy)
        tokens, loss_tokens, sequences = denominators(steps, shaping, device)
        stats["packs"] = float(sum(len(step[0]) for step in packs))
        stats["padding_share"] = self._padding(lengths, packs)
        stats["generate_seconds"] = generated - started
        stats["score_seconds"] = time.perf_counter() - generated
        stats["generate_tokens_per_second"] = num_tokens / max(generated - started, 1e-9)
        return Rollout(
            info=info,
            steps=steps,
            packs=[step[rank] for step in packs],
            step_tokens=tokens,
            step_loss_tokens=loss_tokens,
            step_sequences=sequences,
            max_tokens=sampling.max_new_tokens,
            mask_truncated=shaping.mask_truncated,
            mask_truncated_entropy=shaping.mask_truncated_entropy,
            step_covariance=covariance_statistics(steps, shaping, self.policy.objective),
        )

    def _check_verdicts(self, samples: Sequence[Sample]) -> None:
        """Apply the limits to the verdicts of all ranks, so that all of them stop or none."""
        if self.limits is not None:
            shares = gather_objects([(s.outcome, s.reason) for s in samples])
            self.limits.check([Grade(Outcome(outcome), reason=reason) for share in shares for outcome, reason in share])

    def _groups(
        self, stream: PromptStream, index: int, sizes: Sizes, sampling: SamplingParams, shaping: Shaping, rank: int
    ) -> tuple[list[Group], dict[str, float]]:
        """The groups of the rollout that this rank generated, ``sequence`` set to each sample's place in the whole rollout.

        Under dynamic sampling only accuracies are gathered; completions stay where they were drawn.
        """
        world, dynamic = sizes.world_size, shaping.dynamic
        mine: dict[tuple[int, int], Group] = {}
        kept: list[tuple[int, int]] = []
        spare: list[tuple[int, int]] = []
        for attempt in range(dynamic.max_tries if dynamic else 1):
            prompts = stream.take(sizes.prompts)[rank::world]
            groups = self.sample_groups(prompts, sizes.responses, sampling, rollout=index, verifier=stream.verifier, attempt=attempt)
            mine |= {(attempt, rank + world * n): group for n, group in enumerate(groups)}
            if dynamic is None:
                kept = [(0, place) for place in range(sizes.prompts)]
                break
            shares = gather_objects([group[0].group_accuracy for group in groups])
            for place in range(sizes.prompts):
                (kept if dynamic.keeps(shares[place % world][place // world]) else spare).append((attempt, place))
            if len(kept) >= sizes.prompts:
                break
        extra: dict[str, float] = {}
        if dynamic is not None:
            filled = max(0, sizes.prompts - len(kept))
            kept = (kept + spare[:filled])[: sizes.prompts]
            extra = {"sampling_tries": float(attempt + 1), "filled_groups": float(filled)}
        chosen = []
        for place, key in enumerate(kept):
            if (group := mine.get(key)) is not None:
                for s in group:
                    s.sequence = place * sizes.responses + s.index
                chosen.append(group)
        return chosen, extra

    def _deal(self, groups: list[Group], sizes: Sizes, rank: int) -> tuple[list[list[Sample]], Shares, Shares]:
        """This rank's samples of every optimizer step; of every step the lengths of each rank's, and their prompts: group and tokens."""
        world, per_step = sizes.world_size, sizes.sequences // sizes.steps
        mine = {s.sequence: s for group in groups for s in group}
        facts = {i: (len(s), (i // sizes.responses, len(s.prompt_ids))) for i, s in mine.items()}
        facts = {i: fact for share in gather_objects(facts) for i, fact in share.items()}
        lengths, prompts = {i: fact[0] for i, fact in facts.items()}, {i: fact[1] for i, fact in facts.items()}
        owners = []
        for j in range(sizes.steps):
            places = range(j * per_step, (j + 1) * per_step)
            dealt = deal([lengths[i] for i in places], world, [prompts[i][0] for i in places])
            owners.append([[places[i] for i in share] for share in dealt])
        outgoing = [[mine[i] for step in owners for i in step[r] if i in mine] for r in range(world)]
        received = {s.sequence: s for s in exchange(outgoing)}
        steps = [[received[i] for i in step[rank]] for step in owners]
        tokens = [[[lengths[i] for i in share] for share in step] for step in owners]
        return steps, tokens, [[[prompts[i] for i in share] for share in step] for step in owners]

    def _padding(self, lengths: Shares, packs: list[list[list[list[int]]]]) -> float:
        """Share of the tokens of all ranks' training passes that are padding."""
        real, computed = 0.0, 0.0
        for n, p in ((n, p) for step in zip(lengths, packs, strict=True) for n, p in zip(*step, strict=True)):
            real += sum(n)
            computed += sum(n) / (1 - padding_share(n, p, self.policy.padded))
        return 1 - real / max(computed, 1.0)
