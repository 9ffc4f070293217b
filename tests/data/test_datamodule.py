import lightning.pytorch as pl
import pytest

from aer_lightning.data.datamodule import RolloutDataModule
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.data.rewards import OutcomeLimits
from aer_lightning.data.shaping import DynamicSampling, OverlongPenalty
from aer_lightning.errors import ConfigError, UserError


def test_a_batch_is_an_optimizer_step_and_logging_counts_rollouts(runs, recorder):
    trainer, _, _ = runs.fit([recorder], data=runs.data(optimizer_steps_per_rollout=2, tokens_per_micro_batch=32), log_every_n_steps=3)
    assert trainer.log_every_n_steps == 6 and trainer.global_step == len(recorder.batches) == 4
    with pytest.raises(ConfigError, match=r"^trainer\.accumulate_grad_batches: leave it out; .*tokens_per_micro_batch"):
        runs.fit(accumulate_grad_batches=2)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"eval_temperature": -1.0}, "eval_temperature"),
        ({"eval_temperature": 0.0}, "eval_samples"),
        ({"eval_top_p": 0.0}, "eval_top_p"),
        ({"seed": -1}, "seed"),
        ({"verifier_workers": 5000}, "verifier_workers"),
        ({"max_mismatch": 0.0}, "max_mismatch"),
        ({"rollouts_per_epoch": 0}, "rollouts_per_epoch"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"tokens_per_micro_batch": 31}, "tokens_per_micro_batch"),
        ({"scoring_tokens_per_micro_batch": 31}, "scoring_tokens_per_micro_batch"),
        ({"scoring_pass": "never"}, "scoring_pass"),
        ({"overlong": OverlongPenalty(buffer=9)}, "overlong.buffer"),
        ({"eval_ks": [0, 1]}, "eval_ks"),
        ({"eval_ks": [3]}, "eval_ks"),
        ({"evaluation": [CountdownPrompts(size=2), CountdownPrompts(size=4)]}, "evaluation"),
    ],
)
def test_impossible_options(runs, options, name):
    with pytest.raises(ConfigError, match=rf"^data\.init_args\.{name}: "):
        runs.data(**options)


@pytest.mark.parametrize("options", [{"max_tries": 0}, {"tolerance": 0.5}])
def test_impossible_dynamic_sampling(options):
    with pytest.raises(ConfigError):
        DynamicSampling(**options)


def test_prompts_advance_and_do_not_repeat(runs, recorder):
    _, _, data = runs.fit([recorder], data=runs.data(rollouts_per_epoch=3))
    names = [n for b in recorder.batches for n in b.prompt_ids]
    assert len(set(names)) == 12 and data.stream is None and data.rollouts == 3


def test_samples_depend_on_the_seed_and_the_rollout_alone(runs, recorder):
    def tokens(**kwargs):
        recorder.batches.clear()
        runs.fit([recorder], data=runs.data(**kwargs))
        return {(b.info.index, s.sequence): s.prompt_ids + s.token_ids for b in recorder.batches for s in b.samples}

    base = tokens()
    assert tokens(tokens_per_micro_batch=32) == base
    assert tokens(seed=4) != base


def test_too_many_dishonest_verdicts_stop_the_run_if_asked(runs):
    class Broken:
        isolated = False

        def check_gold(self, answer):
            return None

        def grade(self, completion, answer):
            raise RuntimeError("broken grader")

    prompts = CountdownPrompts(split="train", numbers=(2,))
    object.__setattr__(prompts, "grader", Broken())
    with pytest.raises(UserError, match="max_error"):
        runs.fit(data=runs.data(prompts=prompts, limits=OutcomeLimits(action="stop")))


def test_the_engine_and_the_workers_are_closed_after_a_run(runs):
    closed = []
    data = runs.data()
    real = data.engine.close
    data.engine.close = lambda: (closed.append(True), real())
    runs.fit(data=data)
    assert closed and isinstance(data, RolloutDataModule) and data._verifiers == []


def test_evaluation_has_its_own_temperature_and_nucleus(runs):
    class Watch(pl.Callback):
        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            texts = [row["completion"] for row in batch.rows]
            self.equal = sum(a == b for a, b in zip(texts[::2], texts[1::2], strict=True))

    equal = {}
    for name, options in {"sampled": {}, "cold": {"eval_temperature": 1e-4}, "nucleus": {"eval_top_p": 1e-6}}.items():
        watch = Watch()
        sources = [CountdownPrompts(split="validation", numbers=(2, 3), size=6)]
        runs.fit([watch], data=runs.data(evaluation=sources, rollouts_per_epoch=1, **options))
        equal[name] = watch.equal
    assert equal["cold"] == equal["nucleus"] == 6 > equal["sampled"], "both samples of a problem are the most likely one"
