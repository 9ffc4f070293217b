"""Collecting a rollout on 1, 2 and 4 ranks, which are threads here, with a fake engine, policy and verifier."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import pytest
import torch

import aer_lightning.data.collector as collector_module
import aer_lightning.data.credit as credit_module
import aer_lightning.data.figures as figures_module
import aer_lightning.rollout.measurement as measure_module
from aer_lightning.algorithms.objectives import ClipCovObjective, ClipObjective, KLCovObjective
from aer_lightning.data.collector import Collector
from aer_lightning.data.engines.base import Completion, SamplingParams
from aer_lightning.data.prompts.base import Prompt
from aer_lightning.data.rewards.base import Grade, Outcome
from aer_lightning.data.shaping import DynamicSampling, OverlongPenalty, Shaping
from aer_lightning.errors import StaleWeightsError
from aer_lightning.rollout import Sizes

LIMIT = 6  # tokens
RIGHT = 7  # the token that makes an answer right
SAMPLING = SamplingParams(1.0, LIMIT)


def unit(*key: Any) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") / 2**64


class FakeEngine:
    """Right answers with a chance that the prompt's first token says, in tenths; log-probabilities off by a constant."""

    needs_weights = False

    def __init__(self, shift=0.0):
        self.weight_version, self.shift, self.generated, self.synced, self.slept = -1, shift, 0, [], 0

    def sync_weights(self, named_weights, version):
        self.synced.append((list(named_weights), version))
        self.weight_version = version

    def generate(self, requests, sampling):
        self.generated += len(requests)
        return [self._complete(request) for request in requests]

    def _complete(self, request):
        right = unit(request.seed, "right") < request.prompt_ids[0] / 10
        length = 1 + int(unit(request.seed, "length") * LIMIT)
        ids = [RIGHT if right else 1, *(2 + i for i in range(length - 1))]
        logprobs = [logprob(request.prompt_ids, ids, i) - self.shift for i in range(length)]
        return Completion(ids, logprobs, "length" if length == LIMIT else "stop")

    def sleep(self):
        self.slept += 1


def logprob(prompt_ids, token_ids, place) -> float:
    return -0.1 - unit(tuple(prompt_ids), tuple(token_ids[: place + 1]))


class FakeMemory:
    def __init__(self):
        self.generating, self.calls = False, []

    def make_room(self):
        self.calls.append("make_room")

    def hand_over(self):
        self.generating = True

    def take_back(self):
        self.generating = False
        self.calls.append("take_back")


class FakePolicy:
    def __init__(self, objective=None, kl_weight=0.0):
        self.weight_version, self.objective, self.device = 5, objective or ClipObjective(), torch.device("cpu")
        self.kl_weight, self.kl_in, self.needs_reference = kl_weight, "reward", kl_weight != 0
        self.needs_scoring, self.padded = kl_weight != 0, False
        self.batches, self.memory = [], FakeMemory()

    def full_weights(self):
        return iter([("w", torch.ones(1))])

    def _values(self, pack, value):
        out = []
        for ids, tokens in zip(pack.input_ids[pack.places].split(list(pack.lengths)), pack.split(pack.targets), strict=True):
            prompt, completion = ids[: len(ids) + 1 - len(tokens)].tolist(), tokens.tolist()
            out += [value(prompt, completion, i) for i in range(len(completion))]
        return torch.tensor(out)

    def score(self, pack, temperature):
        self.batches.append(pack.lengths)
        return self._values(pack, logprob), self._values(pack, lambda *key: unit("entropy", *map(repr, key)))

    def score_reference(self, pack, temperature):
        return self._values(pack, lambda *key: logprob(*key) - unit("reference", *map(repr, key)))


class FakeTokenizer:
    def decode(self, ids, skip_special_tokens):
        return "right" if RIGHT in ids else "wrong"

    def batch_decode(self, ids, skip_special_tokens):
        return ["right" if RIGHT in row else "wrong" for row in ids]


class FakeVerifier:
    class grader:
        isolated = False

    def grade(self, items):
        return [Grade(Outcome.CORRECT if text == "right" else Outcome.WRONG, text) for text, *_ in items]


class FakeStream:
    """Prompts whose chance of a right answer goes round ``chances``."""

    def __init__(self, chances=(0, 3, 5, 7, 10)):
        self.cursor, self.chances, self.verifier = 0, chances, FakeVerifier()

    def take(self, count):
        places = range(self.cursor, self.cursor + count)
        self.cursor += count
        return [(Prompt(f"p{i}", "?", None), [self.chances[i % len(self.chances)], *([3] * (i % 3))]) for i in places]


class Ranks:
    """Threads in the place of processes; collectives by a barrier."""

    def __init__(self, monkeypatch, world):
        self.moved = 0
        self.world, self.local, self.slots, self.barrier = world, threading.local(), [None] * world, threading.Barrier(world, timeout=30)
        for module, names in (
            (collector_module, ("gather_objects", "sum_over_ranks", "exchange")),
            (credit_module, ("gather_objects", "sum_over_ranks")),
            (figures_module, ("sum_over_ranks",)),
            (measure_module, ("sum_over_ranks", "max_over_ranks")),
        ):
            for name in names:
                monkeypatch.setattr(module, name, getattr(self, name))

    def gather_objects(self, value):
        self.slots[self.local.rank] = value
        self.barrier.wait()
        gathered = list(self.slots)
        self.barrier.wait()
        return gathered

    def exchange(self, outgoing):
        self.moved += sum(len(objects) for rank, objects in enumerate(outgoing) if rank != self.local.rank)
        return [item for share in self.gather_objects(outgoing) for item in share[self.local.rank]]

    def sum_over_ranks(self, values, device="cpu"):
        return [sum(column) for column in zip(*self.gather_objects(list(values)), strict=True)]

    def max_over_ranks(self, values, device="cpu"):
        return [max(column) for column in zip(*self.gather_objects(list(values)), strict=True)]

    def run(self, work):
        results, errors = [None] * self.world, []

        def target(rank):
            self.local.rank = rank
            try:
                results[rank] = work(rank)
            except BaseException as error:
                errors.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=target, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
        return results


@pytest.fixture
def collect(monkeypatch):
    """Collects rollout 3 of 8 prompts x 4 responses and two optimizer steps; returns each rank's rollout, stream, policy and engine."""

    def run(
        world=1,
        shaping=None,
        *,
        shift=0.0,
        max_mismatch=1.0,
        chances=(0, 3, 5, 7, 10),
        steps=2,
        tokens=20,
        scoring_pass="auto",
        verifier=None,
        **policy_options,
    ):
        sizes = Sizes(prompts=8, responses=4, steps=steps, tokens=tokens, world_size=world)

        def work(rank):
            engine, policy, stream = FakeEngine(shift), FakePolicy(**policy_options), FakeStream(chances)
            stream.verifier = verifier or stream.verifier
            collector = Collector(
                engine, policy, FakeTokenizer(), run_seed=1, max_mismatch=max_mismatch, scoring_pass=scoring_pass, scoring_tokens=40
            )
            rollout = collector.collect(stream, 3, sizes, SAMPLING, shaping or Shaping(), rank)
            return rollout, stream, policy, engine

        return Ranks(monkeypatch, world).run(work)

    return run


def by_place(results):
    """Every sample of all ranks in the order of the rollout."""
    samples = [s for rollout, *_ in results for s in rollout.samples]
    return sorted(samples, key=lambda s: s.sequence)


def facts(sample):
    return sample.prompt_id, sample.index, sample.token_ids, sample.outcome, sample.reward, sample.group_accuracy, sample.sequence


TIMES = ("generate_seconds", "score_seconds", "generate_tokens_per_second", "packs")
SHAPINGS = {
    "plain": Shaping(),
    "batch": Shaping(advantage="reinforce_pp"),
    "dynamic": Shaping(dynamic=DynamicSampling(max_tries=3)),
    "all": Shaping(dynamic=DynamicSampling(max_tries=2), overlong=OverlongPenalty(3), mask_truncated=True),
}


@pytest.mark.parametrize("name", SHAPINGS)
@pytest.mark.parametrize("world", [2, 4])
def test_a_rollout_does_not_depend_on_the_number_of_ranks(collect, name, world):
    options = {"shaping": SHAPINGS[name], "objective": ClipCovObjective(cov_low=0.01), "kl_weight": 0.1}
    one, many = collect(1, **options), collect(world, **options)
    a, b = by_place(one), by_place(many)
    assert [s.sequence for s in a] == list(range(32)) and list(map(facts, a)) == list(map(facts, b))
    for x, y in zip(a, b, strict=True):
        assert y.advantage == pytest.approx(x.advantage, abs=1e-6)
        assert torch.equal(x.old_logprob, y.old_logprob) and torch.equal(x.reference_logprob, y.reference_logprob)
    assert {stream.cursor for _, stream, *_ in many} == {one[0][1].cursor}, "every rank has read the same prompts"
    first = one[0][0]
    for rollout, *_ in many:
        assert rollout.info.entropy == pytest.approx(first.info.entropy, abs=1e-12) and rollout.info.num_tokens == first.info.num_tokens
        stats = {k: v for k, v in rollout.info.stats.items() if k not in TIMES}
        assert stats == pytest.approx({k: v for k, v in first.info.stats.items() if k not in TIMES}, abs=1e-12)
        assert rollout.step_tokens == first.step_tokens and rollout.step_loss_tokens == first.step_loss_tokens
        assert rollout.step_sequences == first.step_sequences
        assert [list(c.values()) for c in rollout.step_covariance] == [
            pytest.approx(list(c.values()), abs=1e-6) for c in first.step_covariance
        ]
        assert len(rollout.packs[0]) == len(many[0][0].packs[0]), "every rank makes the same number of passes"
        assert len(rollout.samples) > 0
    for step in range(2):
        place = {s.sequence for s in first.steps[step]}
        assert {s.sequence for rollout, *_ in many for s in rollout.steps[step]} == place, "each step trains on the same sequences"


def test_entropy_is_a_mean_over_tokens_not_over_completions(collect):
    ((rollout, *_),) = collect()
    values = torch.cat([s.entropy.double() for s in rollout.samples])
    assert rollout.info.entropy == pytest.approx(float(values.mean()), abs=1e-12) and rollout.info.num_tokens == len(values)
    assert rollout.step_tokens == [float(sum(len(s.token_ids) for s in step)) for step in rollout.steps]


def test_dynamic_sampling_draws_until_the_groups_are_mixed(collect):
    ((rollout, stream, _, engine),) = collect(shaping=Shaping(dynamic=DynamicSampling(max_tries=10)))
    stats = rollout.info.stats
    assert stats["sampling_tries"] > 1 and stats["filled_groups"] == 0 and stats["mixed_groups"] == 1.0
    assert all(0 < s.group_accuracy < 1 for s in rollout.samples)
    assert stream.cursor == 8 * stats["sampling_tries"] and engine.generated == 32 * stats["sampling_tries"]
    # The kept ones are the first mixed groups, in the order of the prompts.
    order = [int(s.prompt_id[1:]) for s in by_place([(rollout,)])[::4]]
    assert order == sorted(order) and len(set(order)) == 8


def test_dynamic_sampling_gives_up_and_fills_with_what_was_left_out(collect):
    ((rollout, stream, *_),) = collect(shaping=Shaping(dynamic=DynamicSampling(max_tries=2)), chances=(0, 10, 10, 10, 10, 10, 10, 5))
    stats = rollout.info.stats
    mixed = {s.prompt_id for s in rollout.samples if 0 < s.group_accuracy < 1}
    assert stats["sampling_tries"] == 2 and stream.cursor == 16
    assert stats["filled_groups"] == 8 - len(mixed) and mixed <= {"p7", "p15"} and mixed
    filled = [s.prompt_id for s in by_place([(rollout,)])[::4] if s.prompt_id not in mixed]
    assert filled == [f"p{i}" for i in range(len(filled))], "in their order"


def test_whether_all_wrong_groups_stay_is_an_option(collect):
    chances = (0, 10, 0, 5)
    ((dropped, *_),) = collect(shaping=Shaping(dynamic=DynamicSampling(max_tries=9)), chances=chances)
    ((kept, *_),) = collect(shaping=Shaping(dynamic=DynamicSampling(max_tries=9, keep_all_wrong=True)), chances=chances)
    assert dropped.info.stats["all_wrong_groups"] == 0 and kept.info.stats["all_wrong_groups"] > 0.5
    assert all(s.group_accuracy < 1 for s in kept.samples)


def test_dynamic_sampling_looks_at_accuracy_and_never_at_the_shaped_reward(collect):
    """Lengths differ within a group, so every penalised all-wrong group has unequal rewards."""
    shaping = Shaping(dynamic=DynamicSampling(max_tries=9), overlong=OverlongPenalty(LIMIT))
    ((rollout, *_),) = collect(shaping=shaping, chances=(0, 10, 5))
    assert all(0 < s.group_accuracy < 1 for s in rollout.samples)


def test_overlong_penalty_is_added_to_the_reward_and_not_to_the_accuracy(collect):
    ((rollout, *_),) = collect(shaping=Shaping(overlong=OverlongPenalty(buffer=3, factor=0.5)))
    ((plain, *_),) = collect()
    penalties = {4: 1 / 6, 5: 2 / 6, 6: 3 / 6}  # 0 up to 3 tokens, then a line down to 0.5 at 6
    for s, p in zip(by_place([(rollout,)]), by_place([(plain,)]), strict=True):
        assert s.reward == pytest.approx(p.reward - penalties.get(len(s.token_ids), 0.0)) and s.group_accuracy == p.group_accuracy
    assert rollout.info.stats["reward"] == plain.info.stats["reward"], "what is logged is the verifier's"
    assert any(s.reward < 0 for s in rollout.samples)
    assert_advantages(rollout)


def assert_advantages(rollout):
    rewards = torch.tensor([s.reward for s in by_place([(rollout,)])], dtype=torch.float64).view(8, 4)
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)
    found = torch.tensor([s.advantage for s in by_place([(rollout,)])], dtype=torch.float64).view(8, 4)
    assert torch.allclose(found, expected, atol=1e-4) and found.abs().max() > 0.5


def test_kl_in_the_reward_is_the_summed_log_ratio_to_the_reference(collect):
    ((rollout, *_),) = collect(kl_weight=0.25)
    for s in rollout.samples:
        difference = sum(a - b for a, b in zip(s.old_logprob.tolist(), s.reference_logprob.tolist(), strict=True))
        assert difference > 0 and s.reward == pytest.approx(float(s.correct) - 0.25 * difference, abs=1e-5)
    assert_advantages(rollout)
    ((without, *_),) = collect()
    assert all(s.reference_logprob is None and s.reward == float(s.correct) for s in without.samples)


def test_truncated_completions_leave_the_denominators_of_the_loss_alone(collect):
    ((rollout, *_),) = collect(shaping=Shaping(mask_truncated=True))
    assert any(s.truncated for s in rollout.samples)
    for step, tokens, loss, sequences in zip(
        rollout.steps, rollout.step_tokens, rollout.step_loss_tokens, rollout.step_sequences, strict=True
    ):
        kept = [s for s in step if len(s.token_ids) < LIMIT]
        assert tokens == sum(len(s.token_ids) for s in step) and loss == sum(len(s.token_ids) for s in kept) and sequences == len(kept)


@pytest.mark.parametrize("objective", [ClipCovObjective(clip_share=0.05, cov_low=0.02), KLCovObjective(kl_share=0.1)])
@pytest.mark.parametrize("mask", [False, True])
def test_covariance_statistics_are_those_of_the_whole_step(collect, objective, mask):
    ((rollout, *_),) = collect(shaping=Shaping(mask_truncated=mask), objective=objective)
    assert len(rollout.step_covariance) == 2
    for step, found in zip(rollout.steps, rollout.step_covariance, strict=True):
        rows = [(s.advantage, lp) for s in step if not (mask and s.truncated) for lp in s.old_logprob.tolist()]
        a, lp = (sum(row[i] for row in rows) / len(rows) for i in (0, 1))
        assert found["advantage_mean"] == pytest.approx(a, abs=1e-5) and found["logprob_mean"] == pytest.approx(lp, abs=1e-5)
        values = sorted(((x - a) * (y - lp) for x, y in rows), reverse=True)
        if isinstance(objective, KLCovObjective):
            assert found["threshold"] == pytest.approx(values[int(0.1 * len(rows)) - 1], abs=1e-5), "the last of the k largest"
        else:
            candidates = sum(0.02 < v < 5.0 for v in values)
            assert candidates and found["drop_probability"] == pytest.approx(min(1.0, 0.05 * len(rows) / candidates), abs=1e-5)


def test_other_objectives_cost_no_statistics(collect):
    ((rollout, *_),) = collect()
    assert rollout.step_covariance == []


def test_scoring_goes_by_packs_that_are_larger_than_those_of_training(collect):
    ((rollout, _, policy, _),) = collect()
    assert all(sum(lengths) <= 40 for lengths in policy.batches) and any(sum(lengths) > 20 for lengths in policy.batches)
    assert all(sum(len(step[i]) for i in pack) <= 20 for step, packs in zip(rollout.steps, rollout.packs, strict=True) for pack in packs)
    assert all(torch.isfinite(s.old_logprob).all() and len(s.old_logprob) == len(s.token_ids) == len(s.entropy) for s in rollout.samples)


def test_the_training_forward_is_the_scoring_pass_where_nothing_asks_for_more(collect):
    ((rollout, _, policy, _),) = collect(steps=1)
    assert policy.batches == [] and not rollout.next_batch().scored and rollout.info.entropy != rollout.info.entropy
    assert collect(steps=1, scoring_pass="always")[0][2].batches
    assert collect(steps=1, kl_weight=0.1)[0][2].batches, "a penalty in the reward needs log-probabilities first"
    assert collect(steps=2)[0][2].batches


@pytest.mark.parametrize("world", [2, 4])
def test_tokens_balance_over_ranks(collect, world):
    loads = [sum(len(s) for s in rollout.steps[0]) for rollout, *_ in collect(world)]
    assert max(loads) - min(loads) <= LIMIT + 3, "no rank has more than one sequence more than another"


def test_dynamic_sampling_never_draws_the_same_completion_twice(collect, monkeypatch):
    """A finite source of as many prompts as a rollout gives every prompt again in the second round."""

    class Finite(FakeStream):
        def take(self, count):
            self.cursor += count
            return [(Prompt(f"p{i}", "?", None), [5, i]) for i in range(count)]

    monkeypatch.setattr("tests.data.test_collector.FakeStream", Finite)
    seeds = []
    real = FakeEngine.generate
    monkeypatch.setattr(FakeEngine, "generate", lambda self, r, s: (seeds.extend(x.seed for x in r), real(self, r, s))[1])
    collect(shaping=Shaping(dynamic=DynamicSampling(max_tries=3, tolerance=0.4)))
    assert len(seeds) == 96 and len(set(seeds)) == 96


def test_dynamic_sampling_moves_only_what_is_kept_and_dealt_elsewhere(collect, monkeypatch):
    moved = []
    real = Ranks.run
    monkeypatch.setattr(Ranks, "run", lambda self, work: (real(self, work), moved.append(self.moved))[0])
    collect(2, shaping=Shaping(dynamic=DynamicSampling(max_tries=3)))
    assert 0 < moved[0] <= 32, "of up to 96 completions drawn"


def test_a_difference_between_engine_and_trainer_is_measured(collect):
    ((rollout, *_),) = collect(shift=0.1)
    assert rollout.info.stats["mismatch_logprob"] == pytest.approx(0.1, abs=1e-6)
    assert rollout.info.stats["mismatch_kl"] == pytest.approx(2.718281828**0.1 - 1.1, abs=1e-6)
    assert rollout.info.stats["mismatch_max_ratio"] == pytest.approx(2.718281828**0.1, abs=1e-5)
    with pytest.raises(StaleWeightsError, match=r"data\.init_args\.max_mismatch"):
        collect(shift=0.1, max_mismatch=0.05)


def test_weights_are_pushed_when_they_changed_and_only_then():
    engine, policy, stream = FakeEngine(), FakePolicy(), FakeStream()
    collector = Collector(engine, policy, FakeTokenizer(), run_seed=1, max_mismatch=1.0, sleep=True)
    draw = {"samples": 2, "sampling": SAMPLING, "verifier": stream.verifier}
    first = collector.sample_groups(stream.take(2), rollout=0, **draw)
    stream.cursor = 0
    again = collector.sample_groups(stream.take(2), rollout=0, **draw)
    assert [v for _, v in engine.synced] == [5] and engine.slept == 0, "the engine stays awake between the batches of an evaluation"
    collector.rest()
    collector.rest()
    assert engine.slept == 1 and policy.memory.calls == ["make_room", "take_back"]
    assert [s.token_ids for g in first for s in g] == [s.token_ids for g in again for s in g]
    policy.weight_version = 6
    stream.cursor = 0
    other = collector.sample_groups(stream.take(2), rollout=1, **draw)
    assert [v for _, v in engine.synced] == [5, 6]
    assert [s.token_ids for g in first for s in g] != [s.token_ids for g in other for s in g], "another rollout draws other samples"
    assert collector.sample_groups([], rollout=1, **draw) == []


def test_weights_that_change_between_generation_and_scoring_are_noticed():
    engine, policy, stream = FakeEngine(), FakePolicy(), FakeStream()
    score = policy.score

    def update_meanwhile(*args):
        policy.weight_version += 1
        return score(*args)

    policy.score = update_meanwhile
    collector = Collector(engine, policy, FakeTokenizer(), run_seed=1, max_mismatch=1.0)
    with pytest.raises(StaleWeightsError, match="version 5"):
        collector.collect(stream, 0, Sizes(2, 2, 2, 40), SAMPLING, Shaping(), 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("reads", [False, True])
def test_one_small_step_that_did_not_reach_the_engine_is_found(runs, dtype, reads):
    """A learning rate of 1e-6 and an engine that says it took the weights, and did not: whether it read them or not."""
    from aer_lightning.data.engines import TransformersEngine

    class Deaf(TransformersEngine):
        def sync_weights(self, named_weights, version):
            if version == 0:
                super().sync_weights(named_weights, version)
            elif reads:
                list(named_weights)
            self.weight_version = version

    module = runs.module(optimizer=lambda params: torch.optim.AdamW(params, lr=1e-6))
    engine = Deaf(dtype=dtype) if dtype == "bfloat16" else Deaf()
    from aer_lightning.callbacks import FixedCoefficient

    with pytest.raises(StaleWeightsError, match="did not read" if not reads else "does not serve"):
        runs.fit([FixedCoefficient(0.5)], data=runs.data(engine=engine, rollouts_per_epoch=3, max_mismatch=1.0), module=module)


class PartlyPaid(FakeVerifier):
    """Wrong answers are worth a little, by two rewards of which the tokens decide one."""

    reward_names = ("answer", "short")

    def grade(self, items):
        grades = []
        for text, _, _, tokens in items:
            right, parts = text == "right", {"answer": float(text == "right"), "short": 1.0 / tokens}
            grades.append(
                Grade(Outcome.CORRECT if right else Outcome.WRONG, text, score=parts["answer"] + 0.3 * parts["short"], parts=parts)
            )
        return grades


@pytest.mark.parametrize("world", [1, 2])
def test_scores_make_advantages_and_outcomes_make_accuracy(collect, world):
    results = collect(world, chances=(0, 5, 10), verifier=PartlyPaid())
    samples = by_place(results)
    assert all(s.score == s.reward == pytest.approx(s.correct + 0.3 / len(s.token_ids)) for s in samples)
    groups = [samples[i : i + 4] for i in range(0, 32, 4)]
    assert all(s.group_accuracy == sum(x.correct for x in group) / 4 for group in groups for s in group)
    unequal = [g for g in groups if not any(s.correct for s in g) and len({len(s.token_ids) for s in g}) > 1]
    assert unequal and all(any(s.advantage for s in g) for g in unequal), "a group that is all wrong is told apart by its scores"
    stats = results[0][0].info.stats
    assert stats["reward"] == pytest.approx(sum(s.reward for s in samples) / 32)
    assert stats["correct"] == stats["reward/answer"] == pytest.approx(sum(s.correct for s in samples) / 32)
    assert stats["reward/short"] == pytest.approx(sum(1 / len(s.token_ids) for s in samples) / 32)
