"""Generation as data: prompts go in, graded completions come out, one batch for each optimizer step."""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from aer_lightning.algorithms.advantages import AdvantageEstimator, check_estimator
from aer_lightning.data import checks
from aer_lightning.data.collector import Collector
from aer_lightning.data.engines import VLLMEngine
from aer_lightning.data.engines.base import Engine, SamplingParams
from aer_lightning.data.engines.folder import load_config
from aer_lightning.data.evaluation import EvaluationLoader
from aer_lightning.data.evaluation_cache import EvaluationCache, engine_facts, files_fingerprint
from aer_lightning.data.loader import RolloutLoader
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.data.prompts.base import PromptSource
from aer_lightning.data.prompts.problems import ProblemPrompts
from aer_lightning.data.rewards import Grader, OutcomeLimits, Rewards, Verifier
from aer_lightning.data.shaping import DynamicSampling, OverlongPenalty, Shaping
from aer_lightning.data.stream import PromptStream
from aer_lightning.data.tokenizer import load_tokenizer
from aer_lightning.distributed import gather_objects
from aer_lightning.errors import ConfigError
from aer_lightning.parts import check_part
from aer_lightning.rollout import Rollout, RolloutInfo, Sizes


class RolloutDataModule(pl.LightningDataModule):
    """Prompts, an engine and a verifier, as a Lightning DataModule.

    One vocabulary of sizes: ``prompts_per_rollout`` x ``responses_per_prompt`` = sequences, split into
    ``optimizer_steps_per_rollout`` optimizer steps, each computed in packs of at most ``tokens_per_micro_batch`` tokens.

    Args:
        prompts: where training prompts come from.
        evaluation: held-out sources for validation and test; none if empty.
        engine: generates completions.
        prompts_per_rollout: P, over all ranks.
        responses_per_prompt: G.
        optimizer_steps_per_rollout: k; the first is on-policy.
        tokens_per_micro_batch: bound on the tokens of one forward and backward pass on one rank, prompt and completion; what memory holds.
        scoring_tokens_per_micro_batch: the same of a forward pass without gradient; four times as many if left out.
        scoring_pass: ``auto`` scores a rollout before training only where the training forward cannot do it: with several optimizer
            steps per rollout, or where the objective or the reward needs it. ``always`` does it in any case.
        rollouts_per_epoch: an epoch is so many rollouts; validation and checkpoints come between epochs.
        temperature: of sampling, and of every probability and entropy of the policy.
        max_prompt_tokens: longer prompts are dropped and counted; if left out 512, or what the model's positions and the
            packs of training and scoring leave beside a completion where that is less.
        max_new_tokens: length limit of a completion, tokens.
        advantage: estimator, see ``aer_lightning.algorithms.advantages``.
        advantage_eps: added to the standard deviation in the advantage.
        dynamic_sampling: resample until every group is mixed; off if left out.
        overlong: soft length penalty; off if left out.
        mask_truncated: leave truncated completions out of the policy loss.
        mask_truncated_entropy: leave them out of H_k and of the entropy bonus; by default every response token counts, as in AER's H_k.
        max_mismatch: limit in nat on mean |d logp| between engine and trainer, above which the run stops. If left out, four times the
            first rollout's, which the precisions of the two make, and at most 0.001 (float32 on a CPU) or 0.1 (elsewhere).
        eval_samples: n, samples per held-out prompt.
        eval_ks: the k of pass@k, each at most n.
        eval_temperature: of evaluation; ``temperature`` if left out.
        eval_top_p: nucleus mass of evaluation.
        eval_batch_prompts: held-out prompts generated at once on one rank.
        eval_cache: folder that keeps the completions of evaluations by weights and options, so that one that was stopped goes on where it
            was; none is kept if left out.
        seed: of samples and prompt order; that of ``seed_everything`` if left out.
        rewards: what a training completion is worth, as a weighted sum: ``[{class_path, weight, init_args, name, timeout_s, process}]``
            with ``Correctness``, ``Format``, ``Length``, ``HttpReward``, a class with ``score`` or a Python function by its dotted path;
            the grader's score alone if left out. Accuracy, pass@k and difficulty count correct answers in any case.
        verifier_workers: worker processes for graders that need them.
        verifier_timeout: seconds per answer after which its worker is replaced.
        limits: what to do when too many verdicts are timeouts, errors or bad golds; null for nothing.
        sleep_engine: give the engine's memory back while training; only matters on an accelerator.

    Raises:
        ConfigError: sizes that do not fit together, or an option out of range.
    """

    def __init__(
        self,
        prompts: PromptSource | None = None,
        evaluation: list[PromptSource] | None = None,
        engine: Engine | None = None,
        prompts_per_rollout: int = 16,
        responses_per_prompt: int = 16,
        optimizer_steps_per_rollout: int = 1,
        tokens_per_micro_batch: int = 16384,
        scoring_tokens_per_micro_batch: int | None = None,
        scoring_pass: Literal["auto", "always"] = "auto",
        rollouts_per_epoch: int = 20,
        temperature: float = 1.0,
        max_prompt_tokens: int | None = None,
        max_new_tokens: int = 32,
        advantage: AdvantageEstimator = "grpo",
        advantage_eps: float = 1e-6,
        dynamic_sampling: DynamicSampling | None = None,
        overlong: OverlongPenalty | None = None,
        mask_truncated: bool = False,
        mask_truncated_entropy: bool = False,
        max_mismatch: float | None = None,
        eval_samples: int = 8,
        eval_ks: list[int] | None = None,
        eval_temperature: float | None = None,
        eval_top_p: float = 1.0,
        eval_batch_prompts: int = 64,
        eval_cache: str | None = None,
        seed: int | None = None,
        rewards: list[dict[str, Any]] | None = None,
        verifier_workers: int = 2,
        verifier_timeout: float = 5.0,
        limits: OutcomeLimits | None = OutcomeLimits(),  # noqa: B008 (frozen)
        sleep_engine: bool = True,
    ) -> None:
        super().__init__()
        self.sizes = Sizes(prompts_per_rollout, responses_per_prompt, optimizer_steps_per_rollout, tokens_per_micro_batch)
        if responses_per_prompt > 0:
            check_estimator(advantage, responses_per_prompt)
        if problem := self.sizes.problem():
            raise ConfigError(problem)
        checks.check_counts(
            rollouts_per_epoch=rollouts_per_epoch,
            max_prompt_tokens=1 if max_prompt_tokens is None else max_prompt_tokens,
            max_new_tokens=max_new_tokens,
            eval_samples=eval_samples,
            eval_batch_prompts=eval_batch_prompts,
        )
        packs = {"tokens_per_micro_batch": tokens_per_micro_batch, "scoring_tokens_per_micro_batch": scoring_tokens_per_micro_batch}
        checks.check_packs_hold(packs, max_prompt_tokens or 1, max_new_tokens)
        if scoring_pass not in ("auto", "always"):
            raise ConfigError(f"data.init_args.scoring_pass: must be auto or always, got {scoring_pass!r}")
        checks.check_sampling(temperature, eval_temperature, eval_top_p, eval_samples)
        checks.check_verifier(verifier_workers, verifier_timeout)
        checks.check_seed(seed)
        if not 0 <= advantage_eps < math.inf:
            raise ConfigError(f"data.init_args.advantage_eps: {advantage_eps} is negative or infinite; 1e-6 is usual")
        if max_mismatch is not None and not max_mismatch > 0:
            raise ConfigError(f"data.init_args.max_mismatch: {max_mismatch} is not positive; leave it out for the default")
        if overlong is not None and not 1 <= overlong.buffer <= max_new_tokens:
            raise ConfigError(f"data.init_args.overlong.buffer: {overlong.buffer} is not in 1..max_new_tokens={max_new_tokens}")
        self.eval_ks = sorted(set(eval_ks or [1, eval_samples]))
        checks.check_ks(self.eval_ks, eval_samples)
        self.prompts: PromptSource = CountdownPrompts() if prompts is None else prompts
        self.evaluation: list[PromptSource] = list(evaluation or [])
        check_part(self.prompts, PromptSource, "data.init_args.prompts")
        for i, source in enumerate(self.evaluation):
            check_part(source, PromptSource, f"data.init_args.evaluation[{i}]")
        checks.check_names([source.name for source in self.evaluation])
        self.engine: Engine = engine if engine is not None else VLLMEngine()
        check_part(self.engine, Engine, "data.init_args.engine")
        self.rollouts_per_epoch = rollouts_per_epoch
        self.sampling = SamplingParams(temperature, max_new_tokens)
        self.eval_sampling = SamplingParams(temperature if eval_temperature is None else eval_temperature, max_new_tokens, eval_top_p)
        self.max_prompt_tokens, self.max_mismatch = max_prompt_tokens, max_mismatch
        self.shaping = Shaping(advantage, advantage_eps, overlong, dynamic_sampling, mask_truncated, mask_truncated_entropy)
        self.scoring_pass, self.scoring_tokens = scoring_pass, scoring_tokens_per_micro_batch or 4 * tokens_per_micro_batch
        self.eval_samples, self.eval_batch_prompts, self.eval_cache = eval_samples, eval_batch_prompts, eval_cache
        self.seed, self.limits, self.sleep_engine = seed, limits, sleep_engine
        self.rewards = None if rewards is None else Rewards.from_config(rewards)
        self._workers, self._timeout = verifier_workers, verifier_timeout
        self._verifiers: list[tuple[Any, Verifier]] = []
        self._collector: Collector | None = None
        self._restored: dict[str, Any] | None = None
        self._background = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._preparing: Future[None] | None = None
        self._counts_rollouts = False
        self._first_mismatch: float | None = None
        self._last_info: RolloutInfo | None = None
        self.tokenizer: Any = None
        self.stream: PromptStream | None = None
        self.rollouts = 0
        self.rollout: Rollout | None = None

    # -- life ---------------------------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Read and check prompts, and fix the sizes for this number of ranks, before any model or engine is loaded."""
        assert self.trainer is not None
        if stage != "fit" and not self.evaluation:
            raise ConfigError(f"data.init_args.evaluation: there is nothing to {stage} on; list at least one source")
        self._check_sizes(stage)
        if self.seed is None:
            import os

            self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        if self.tokenizer is None:
            trust = getattr(self.trainer.lightning_module, "trust_remote_code", False)
            self.tokenizer = load_tokenizer(str(self.model_folder), trust)
            new = self.sampling.max_new_tokens
            if self.max_prompt_tokens is None:
                self.max_prompt_tokens = checks.room_for_prompts(
                    load_config(self.model_folder, trust), new, min(self.sizes.tokens, self.scoring_tokens)
                )
            checks.check_model_holds(self.model_folder, self.tokenizer, self.max_prompt_tokens, new, trust)
        if stage == "fit" and self.stream is None:
            self.stream = self._open(self.prompts, shuffle=True)
            if self._restored:
                self._restore()
            rank_zero_info(self.sizes.describe())
        self._evaluation = [self._open(source, shuffle=False) for source in self.evaluation]
        if stage == "fit" and isinstance(self.prompts, ProblemPrompts):
            held_out = {source.name: source for source in self.evaluation if isinstance(source, ProblemPrompts)}
            for line in self.prompts.check_overlap(held_out).lines():
                rank_zero_info(f"{self.prompts.name}: {line}")

    @property
    def model_folder(self) -> Path:
        """Folder that the tokenizer and the engine start from."""
        return self.trainer.lightning_module.model_folder()  # type: ignore[union-attr, operator]

    def _check_sizes(self, stage: str) -> None:
        assert self.trainer is not None
        self.sizes = Sizes(self.sizes.prompts, self.sizes.responses, self.sizes.steps, self.sizes.tokens, self.trainer.world_size)
        if stage != "fit":
            return
        if problem := self.sizes.problem():
            raise ConfigError(problem)
        objective = getattr(self.trainer.lightning_module, "objective", None)
        if self.sizes.steps < (least := getattr(objective, "least_steps", 1)):
            raise ConfigError(
                f"data.init_args.optimizer_steps_per_rollout: {type(objective).__name__} does nothing in the first step on a rollout, and "
                f"{self.sizes.steps} leaves no other; set {least} or more"
            )
        if self.trainer.accumulate_grad_batches != 1:
            raise ConfigError(
                "trainer.accumulate_grad_batches: leave it out; a batch is a whole optimizer step, computed in packs of at most "
                f"data.init_args.tokens_per_micro_batch = {self.sizes.tokens} tokens"
            )
        checks.check_trainer(self.trainer, self.sizes.steps, self.sizes.steps * self.rollouts_per_epoch)
        # Metrics belong to rollouts, so trainer.log_every_n_steps counts rollouts: Lightning would log the last rollout's again otherwise.
        if not self._counts_rollouts:
            self.trainer.log_every_n_steps *= self.sizes.steps  # type: ignore[attr-defined]
            self._counts_rollouts = True

    def _open(self, source: PromptSource, shuffle: bool) -> PromptStream:
        rewards = self.rewards if shuffle else None  # held-out sources report what their grader says
        verifier = next((v for grader, v in self._verifiers if grader == source.grader and v.rewards is rewards), None)
        if verifier is None:
            check_part(source.grader, Grader, f"the grader of {source.name}")
            verifier = Verifier(source.grader, workers=self._workers, timeout_s=self._timeout, rewards=rewards)
            self._verifiers.append((source.grader, verifier))
        assert self.seed is not None and self.max_prompt_tokens is not None
        stream = PromptStream(source, self.tokenizer, verifier, max_prompt_tokens=self.max_prompt_tokens, seed=self.seed, shuffle=shuffle)
        stream.load()
        if dropped := stream.dropped():
            rank_zero_info(dropped)
        return stream

    @property
    def collector(self) -> Collector:
        """Generates and grades; starts the engine on first use, when the policy's weights are final."""
        if self._collector is None:
            assert self.trainer is not None and self.seed is not None and self.max_prompt_tokens is not None
            policy = self.trainer.lightning_module
            device = self.trainer.strategy.root_device
            self.engine.start(
                self.model_folder,
                max_model_len=self.max_prompt_tokens + self.sampling.max_new_tokens,
                device=device,
                seed=self.seed,
            )
            self._collector = Collector(
                self.engine,
                policy,  # type: ignore[arg-type]
                self.tokenizer,
                run_seed=self.seed,
                limits=self.limits,
                sleep=self.sleep_engine and device.type != "cpu",
                scoring_pass=self.scoring_pass,
                scoring_tokens=self.scoring_tokens,
            )
        return self._collector

    def collect(self) -> Rollout:
        """The next rollout under the current weights."""
        assert self.trainer is not None and self.stream is not None
        if self._preparing is not None:
            self._preparing.result()
        collector = self.collector
        collector.max_mismatch = self._mismatch_limit()
        rollout = collector.collect(self.stream, self.rollouts, self.sizes, self.sampling, self.shaping, self.trainer.global_rank)
        self.last_samples = rollout.samples
        # while the rollout is trained on, another thread encodes the next one's prompts
        self._preparing = self._background.submit(self.stream.prepare, self.sizes.prompts)
        return rollout

    def _measured_mismatch(self) -> float | None:
        """The first rollout's mismatch; None before that has been measured, which is at its first optimizer step at the latest."""
        info = self._last_info or (self.rollout.info if self.rollout is not None else None)
        if self._first_mismatch is None and info is not None:
            self._first_mismatch = info.stats.get("mismatch_logprob")
        return self._first_mismatch

    def _mismatch_limit(self) -> float:
        """Nat above which the engine is taken not to run the policy's weights, given what the first rollout showed."""
        assert self.trainer is not None
        if self.max_mismatch is not None:
            return self.max_mismatch
        module = self.trainer.lightning_module
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        exact = getattr(module, "dtype_name", "") == "float32" and "32" in str(self.trainer.precision) and on_cpu
        return checks.mismatch_limit(self._measured_mismatch(), exact)

    def rest(self) -> None:
        """The engine's turn on a shared accelerator is over; called once after an evaluation."""
        if self._collector is not None:
            self._collector.rest()

    def finish(self) -> None:
        """The current rollout's last optimizer step has been handed out."""
        self._last_info = self.rollout.info if self.rollout is not None else None
        self.rollout = None
        self.rollouts += 1

    def teardown(self, stage: str) -> None:
        """Close the engine and the verifiers' workers."""
        if self._preparing is not None:
            self._preparing.result()
            self._preparing = None
        if self._collector is not None:
            self.engine.close()
            self._collector = None
        for _, verifier in self._verifiers:
            verifier.close()
        self._verifiers.clear()
        self.stream = None

    # -- loaders ------------------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> RolloutLoader:
        """Rollouts, one batch for each optimizer step."""
        return RolloutLoader(self)

    def val_dataloader(self) -> list[EvaluationLoader]:
        """One loader per held-out source."""
        assert self.trainer is not None
        cache = self._evaluation_cache(self.eval_cache) if self.eval_cache is not None else None
        return [
            EvaluationLoader(
                lambda: self.collector,
                stream,
                self.eval_samples,
                self.eval_sampling,
                self.eval_batch_prompts,
                self.trainer.global_rank,
                self.trainer.world_size,
                cache,
            )
            for stream in self._evaluation
        ]

    def _evaluation_cache(self, folder: str) -> EvaluationCache:
        assert self.trainer is not None
        facts = {
            "samples": self.eval_samples,
            "sampling": asdict(self.eval_sampling),
            "seed": self.seed,
            "engine": engine_facts(self.engine, self.trainer.strategy.root_device),
            "files": files_fingerprint(self.model_folder),
        }
        return EvaluationCache(folder, facts, self.trainer.lightning_module, self.trainer.global_rank)  # type: ignore[arg-type]

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader

    def evaluation_plan(self) -> list[tuple[str, tuple[str, ...]]]:
        """(source name, labels) of every held-out source, in the order of the loaders."""
        return [(source.name, tuple(source.labels)) for source in self.evaluation]

    def evaluation_facts(self) -> dict[str, dict[str, Any]]:
        """Of every held-out source: usable ``problems``, and those left out: ``bad_gold`` (reasons by id) and ``too_long`` (ids)."""
        return {
            stream.source.name: {"problems": stream.usable, "bad_gold": dict(stream.bad_gold), "too_long": sorted(stream.too_long)}
            for stream in self._evaluation
        }

    # -- resume -------------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Cursor, count of rollouts, and the rollout in flight on every rank. Collective when there are several."""
        return {
            "cursor": self.stream.cursor if self.stream is not None else 0,
            "rollouts": self.rollouts,
            "seed": self.seed,
            "first_mismatch": self._measured_mismatch(),
            "in_flight": gather_objects(self.rollout.state_dict() if self.rollout is not None else None),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state up again; see ``state_dict``."""
        self._restored = state_dict
        if self.stream is not None:
            self._restore()

    def _restore(self) -> None:
        assert self._restored is not None and self.stream is not None and self.trainer is not None
        state, self._restored = self._restored, None
        if state["seed"] != self.seed:
            raise ConfigError(f"seed_everything: the checkpoint has seed {state['seed']}, this run {self.seed}; resume with the same seed")
        self.stream.cursor, self.rollouts = state["cursor"], state["rollouts"]
        self._first_mismatch = state.get("first_mismatch")
        shares = state["in_flight"]
        if all(share is not None for share in shares):
            padded = getattr(self.trainer.lightning_module, "padded", False)
            self.rollout = Rollout.from_shares(shares, self.trainer.global_rank, self.trainer.world_size, self.sizes.tokens, padded)
            self.last_samples = self.rollout.samples
