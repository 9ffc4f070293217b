"""Collects a rollout: generate, verify, score, compare the engine with the trainer, advantages."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor

from aer_lightning.algorithms.advantages import compute_advantages, soft_overlong_penalty
from aer_lightning.algorithms.objectives import CovarianceObjective, kl_penalised_rewards
from aer_lightning.data.engines.base import Completion, Engine, GenerationRequest, SamplingParams
from aer_lightning.data.figures import group_figures, mean_entropy, outcome_rates, tokens_by_correct
from aer_lightning.data.rewards import Grade, Outcome, OutcomeLimits, Verifier
from aer_lightning.data.seeds import sample_seed
from aer_lightning.data.shaping import Shaping
from aer_lightning.data.stream import Encoded, PromptStream
from aer_lightning.distributed import gather_objects, max_over_ranks, sum_over_ranks
from aer_lightning.errors import StaleWeightsError
from aer_lightning.rollout import Rollout, RolloutInfo, Sample, Sizes, collate

Group = list[Sample]


class Policy(Protocol):
    """What the data needs of the policy module."""

    weight_version: int
    needs_reference: bool
    kl_weight: float
    kl_in: str
    objective: Any
    device: torch.device

    def full_weights(self) -> Any:
        """(name, full tensor) pairs; collective under sharding."""

    def score(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy, [B, L] each."""

    def score_reference(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, temperature: float) -> Tensor:
        """The reference's log-probability, [B, L]."""


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
    """

    def __init__(
        self,
        engine: Engine,
        policy: Policy,
        tokenizer: Any,
        *,
        run_seed: int,
        max_mismatch: float,
        limits: OutcomeLimits | None = None,
        sleep: bool = False,
    ) -> None:
        self.engine, self.policy, self.tokenizer = engine, policy, tokenizer
        self.run_seed, self.max_mismatch, self.limits, self.sleep = run_seed, max_mismatch, limits, sleep

    # -- generation and verification --------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Push the policy's weights to the engine if they changed since the last time. Collective under sharding."""
        if self.engine.weight_version != self.policy.weight_version:
            self.engine.sync_weights(self.policy.full_weights(), self.policy.weight_version)

    def complete(
        self, prompts: Sequence[Encoded], samples: int, sampling: SamplingParams, *, rollout: int
    ) -> tuple[list[Completion], list[str]]:
        """Draw ``samples`` completions for each prompt under the policy's current weights. Collective under sharding.

        Args:
            prompts: this rank's prompts with their token ids.
            samples: completions per prompt.
            sampling: how to sample.
            rollout: index of the rollout, part of the seeds; -1 for evaluation.

        Returns:
            The completions, those of one prompt side by side, and their texts.
        """
        self.sync()
        requests = [
            GenerationRequest(tuple(ids), sample_seed(self.run_seed, prompt.id, rollout, i))
            for prompt, ids in prompts
            for i in range(samples)
        ]
        completions = self.engine.generate(requests, sampling) if requests else []
        if self.sleep:
            self.engine.sleep()
        texts = self.tokenizer.batch_decode([c.token_ids for c in completions], skip_special_tokens=True) if completions else []
        return completions, texts

    def sample_groups(
        self, prompts: Sequence[Encoded], samples: int, sampling: SamplingParams, *, rollout: int, verifier: Verifier
    ) -> list[Group]:
        """Draw ``samples`` completions for each prompt, as ``complete`` does, and grade them with ``verifier``."""
        completions, texts = self.complete(prompts, samples, sampling, rollout=rollout)
        asked = [(prompt.answer, prompt.content) for prompt, _ in prompts for _ in range(samples)]
        grades = verifier.grade([(text, answer, content) for text, (answer, content) in zip(texts, asked, strict=True)])
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
                        reason=grade.reason,
                        reward=grade.reward,
                    )
                )
            accuracy = sum(s.correct for s in group) / len(group)
            for s in group:
                s.group_accuracy = accuracy
            groups.append(group)
        return groups

    # -- scoring ----------------------------------------------------------------------------------------------------------------

    def score(self, samples: Sequence[Sample], temperature: float, micro_batch: int, pad_id: int) -> None:
        """Write the policy's log-probabilities and entropies before the update, and the reference's if a KL term needs them."""
        order = sorted(samples, key=len)
        for start in range(0, len(order), micro_batch):
            chunk = order[start : start + micro_batch]
            tensors = collate(chunk, pad_id)
            args = (tensors["input_ids"], tensors["attention_mask"], tensors["response_mask"], temperature)
            logprob, entropy = (t.cpu() for t in self.policy.score(*args))
            reference = self.policy.score_reference(*args).cpu() if self.policy.needs_reference else None
            for row, s in enumerate(chunk):
                span = slice(len(s.prompt_ids), len(s))
                s.old_logprob, s.entropy = logprob[row, span].clone(), entropy[row, span].clone()
                s.reference_logprob = None if reference is None else reference[row, span].clone()

    def check_mismatch(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Compare the engine's log-probabilities with the trainer's.

        Returns:
            ``mismatch_logprob`` mean |d logp|, ``mismatch_kl`` k3 estimate of KL(engine || trainer), ``mismatch_max_ratio``.

        Raises:
            StaleWeightsError: the mean is above ``max_mismatch``, or the engine reports other weights than the policy's.
        """
        differences = [s.old_logprob - s.behaviour_logprob for s in samples if s.old_logprob is not None]
        d = torch.cat(differences).double() if differences else torch.zeros(0, dtype=torch.float64)
        total, kl, count = sum_over_ranks([float(d.abs().sum()), float((d.exp() - 1 - d).sum()), float(len(d))], self.policy.device)
        (largest,) = max_over_ranks([float(d.max()) if len(d) else -math.inf], self.policy.device)
        mean = total / max(count, 1.0)
        if self.engine.weight_version != self.policy.weight_version:
            raise StaleWeightsError(
                f"the engine generated with weight version {self.engine.weight_version}, the policy is at {self.policy.weight_version}; "
                "weights changed between generation and scoring"
            )
        if not mean <= self.max_mismatch:
            raise StaleWeightsError(
                f"the engine's log-probabilities differ from the policy's by {mean:.3g} nat on average, more than "
                f"data.init_args.max_mismatch={self.max_mismatch:.3g}: the engine does not run the current weights, or at too low a "
                "precision; check the engine's dtype and weight sync, or raise the limit if the difference is expected"
            )
        return {"mismatch_logprob": mean, "mismatch_kl": kl / max(count, 1.0), "mismatch_max_ratio": math.exp(min(largest, 80.0))}

    # -- the whole ----------------------------------------------------------------------------------------------------------------

    def collect(
        self, stream: PromptStream, index: int, sizes: Sizes, sampling: SamplingParams, shaping: Shaping, rank: int, pad_id: int
    ) -> Rollout:
        """Collect rollout number ``index``: this rank's share of it, in training order.

        The prompts of optimizer step j are the j-th P/k of the rollout, of which a rank holds every ``world_size``-th, so that each
        step trains on the same sequences whatever the number of ranks.
        """
        device = self.policy.device
        started = time.perf_counter()
        groups, extra = self._groups(stream, index, sizes, sampling, shaping, rank)
        generated = time.perf_counter()
        samples = [s for group in groups for s in group]
        self._check_verdicts(samples)
        self.score(samples, sampling.temperature, sizes.micro_batch, pad_id)
        entropy, num_tokens = mean_entropy(samples, device)
        stats = group_figures(groups, device) | outcome_rates(samples, device) | self.check_mismatch(samples) | extra
        self._advantages(groups, sizes, sampling, shaping, rank)
        steps, tokens, loss_tokens, sequences = self._steps(groups, sizes, shaping)
        stats["generate_seconds"] = generated - started
        stats["score_seconds"] = time.perf_counter() - generated
        stats["generate_tokens_per_second"] = num_tokens / max(generated - started, 1e-9)
        by_correct = tokens_by_correct(samples, sizes.responses, device)
        info = RolloutInfo(index, self.policy.weight_version, sampling.temperature, entropy, num_tokens, sizes.sequences, stats, by_correct)
        return Rollout(
            info=info,
            steps=steps,
            step_tokens=tokens,
            step_loss_tokens=loss_tokens,
            step_sequences=sequences,
            micro_batch_size=sizes.micro_batch,
            pad_id=pad_id,
            max_tokens=sampling.max_new_tokens,
            mask_truncated=shaping.mask_truncated,
            step_covariance=self._covariance(steps, shaping),
        )

    def _check_verdicts(self, samples: Sequence[Sample]) -> None:
        """Apply the limits to the verdicts of all ranks, so that all of them stop or none."""
        if self.limits is not None:
            shares = gather_objects([(s.outcome, s.reason) for s in samples])
            self.limits.check([Grade(Outcome(outcome), reason=reason) for share in shares for outcome, reason in share])

    def _groups(
        self, stream: PromptStream, index: int, sizes: Sizes, sampling: SamplingParams, shaping: Shaping, rank: int
    ) -> tuple[list[Group], dict[str, float]]:
        """This rank's groups, ``sequence`` set to each sample's place in the whole rollout."""
        world, dynamic = sizes.world_size, shaping.dynamic
        kept: list[Group] = []
        spare: list[Group] = []
        tries = 0
        while tries < (dynamic.max_tries if dynamic else 1):
            tries += 1
            prompts = stream.take(sizes.prompts)[rank::world]
            groups = self.sample_groups(prompts, sizes.responses, sampling, rollout=index, verifier=stream.verifier)
            if dynamic is None:
                kept = groups
                break
            shares = gather_objects(groups)
            for group in (shares[i % world][i // world] for i in range(sizes.prompts)):
                (kept if dynamic.keeps(group) else spare).append(group)
            if len(kept) >= sizes.prompts:
                break
        extra: dict[str, float] = {}
        if dynamic is not None:
            filled = max(0, sizes.prompts - len(kept))
            kept = (kept + spare[:filled])[: sizes.prompts][rank::world]
            extra = {"sampling_tries": float(tries), "filled_groups": float(filled)}
        for n, group in enumerate(kept):
            for s in group:
                s.sequence = (rank + world * n) * sizes.responses + s.index
        return kept, extra

    def _advantages(self, groups: list[Group], sizes: Sizes, sampling: SamplingParams, shaping: Shaping, rank: int) -> None:
        """Shape rewards, then advantages from the rewards of all ranks, so that batch statistics are global."""
        samples = [s for group in groups for s in group]
        if shaping.overlong is not None:
            lengths = torch.tensor([len(s.token_ids) for s in samples])
            penalty = soft_overlong_penalty(lengths, sampling.max_new_tokens, shaping.overlong.buffer, shaping.overlong.factor)
            for s, p in zip(samples, penalty.tolist(), strict=True):
                s.reward += p
        if self.policy.kl_weight and self.policy.kl_in == "reward":
            for s in samples:
                assert s.old_logprob is not None and s.reference_logprob is not None
                mask = torch.ones(1, len(s.token_ids), dtype=torch.bool)
                rows = (torch.tensor([s.reward]), s.old_logprob[None], s.reference_logprob[None], mask)
                s.reward = float(kl_penalised_rewards(*rows, self.policy.kl_weight))
        shares = gather_objects([[s.reward for s in group] for group in groups])
        rewards = torch.tensor([shares[i % len(shares)][i // len(shares)] for i in range(sizes.prompts)])
        advantages = compute_advantages(rewards, shaping.advantage, shaping.advantage_eps)[rank :: sizes.world_size]
        for group, row in zip(groups, advantages.tolist(), strict=True):
            for s, a in zip(group, row, strict=True):
                s.advantage = a

    def _steps(
        self, groups: list[Group], sizes: Sizes, shaping: Shaping
    ) -> tuple[list[list[Sample]], list[float], list[float], list[float]]:
        """Samples per optimizer step, shortest first, and each step's global counts: tokens, tokens and completions in the loss."""
        per_step, k = len(groups) // sizes.steps, sizes.steps
        steps = [[s for g in groups[j * per_step : (j + 1) * per_step] for s in g] for j in range(k)]
        kept = [[s for s in step if not (shaping.mask_truncated and s.truncated)] for step in steps]
        counts = [float(sum(len(s.token_ids) for s in step)) for step in [*steps, *kept]] + [float(len(step)) for step in kept]
        counts = sum_over_ranks(counts, self.policy.device)
        return [sorted(step, key=len) for step in steps], counts[:k], counts[k : 2 * k], counts[2 * k :]

    def _covariance(self, steps: list[list[Sample]], shaping: Shaping) -> list[dict[str, float]]:
        """Statistics of each whole optimizer step for objectives that need them; empty for the others."""
        objective = self.policy.objective
        if not isinstance(objective, CovarianceObjective):
            return []
        result = []
        for step in steps:
            kept = [(s.old_logprob, s.advantage) for s in step if not (shaping.mask_truncated and s.truncated)]
            rows: list[Any] = [row for share in gather_objects(kept) for row in share]
            if not rows:
                rows = [(torch.zeros(0), 0.0)]
            logprob = torch.nn.utils.rnn.pad_sequence([r[0] for r in rows], batch_first=True)
            mask = torch.arange(logprob.shape[1])[None] < torch.tensor([len(r[0]) for r in rows])[:, None]
            statistics = objective.statistics(logprob, torch.tensor([r[1] for r in rows]), mask)
            result.append({name: float(value) for name, value in asdict(statistics).items()})
        return result
