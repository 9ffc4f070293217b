"""Options with values that cannot be: refused in one line that names the option, before a model is loaded."""

from __future__ import annotations

import math

import pytest
import torch

from aer_lightning.callbacks import FixedCoefficient
from aer_lightning.data.engines import TransformersEngine
from aer_lightning.data.engines.base import Completion

BASE = ("fit", "-c", "configs/aer.yaml")
LR = "model.init_args.optimizer.init_args.lr"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([f"--{LR}=-1"], ["model.init_args.optimizer", "learning rate", "-1"]),
        ([f"--{LR}=1e400"], ["model.init_args.optimizer", "lr", "inf"]),
        ([f"--{LR}=nan"], ["lr", "float"]),
        (["--model.init_args.optimizer.init_args.betas=[2, 3]"], ["model.init_args.optimizer", "beta"]),
        (["--seed_everything=-1"], ["seed_everything", "-1"]),
        (["--seed_everything=99999999999"], ["seed_everything", "4294967295"]),
        (["--data.init_args.seed=-1"], ["data.init_args.seed"]),
        (["--data.init_args.seed=99999999999999999999"], ["data.init_args.seed"]),
        (["--model.init_args.pretrained=${nope.nothing}"], ["model.init_args.pretrained", "nope.nothing", "no option"]),
        (["--name=../.."], ["name", "../.."]),
        (["--name="], ["name", "''"]),
        (["--name=/absolute"], ["name", "/absolute"]),
        (["--name=\udcff"], ["name", "UTF-8"]),
        (["--model.init_args.pretrained=\udcff"], ["model.init_args.pretrained", "UTF-8"]),
        (["--ckpt_path=."], ["ckpt_path", "folder"]),
        (["--ckpt_path=README.md"], ["ckpt_path", "README.md"]),
        (["--ckpt_path=best"], ["ckpt_path", "best"]),
        (["--ckpt_path=hpc"], ["ckpt_path", "hpc"]),
        (["--run_dir=README.md"], ["run_dir", "README.md", "file"]),
        (["--run_dir=README.md/below"], ["run_dir", "README.md/below"]),
        (["--run_dir=/dev/full"], ["run_dir", "/dev/full"]),
        (["--run_dir=/proc/self/nothing"], ["run_dir", "/proc/self/nothing", "cannot be written"]),
        (["--trainer.default_root_dir=/proc/self/nothing"], ["trainer.default_root_dir", "cannot be written"]),
        (["--data.init_args.eval_top_p=0"], ["data.init_args.eval_top_p", "(0, 1]"]),
        (["--data.init_args.eval_top_p=1.5"], ["data.init_args.eval_top_p", "(0, 1]"]),
        (["--data.init_args.eval_temperature=0"], ["data.init_args.eval_samples", "greedy"]),
        (["--data.init_args.temperature=nan"], ["temperature"]),
        (["--data.init_args.advantage_eps=-1"], ["data.init_args.advantage_eps"]),
        (["--data.init_args.verifier_workers=5000"], ["data.init_args.verifier_workers", "5000"]),
        (["--data.init_args.verifier_workers=0"], ["data.init_args.verifier_workers", "0"]),
        (["--data.init_args.verifier_timeout=0"], ["data.init_args.verifier_timeout"]),
        (["--data.init_args.max_new_tokens=200"], ["data.init_args.max_new_tokens", "128 positions"]),
        (["--trainer.overfit_batches=1"], ["trainer.overfit_batches"]),
        (["--trainer.limit_train_batches=0"], ["trainer.limit_train_batches"]),
        (["--trainer.num_nodes=0"], ["trainer", "num_nodes"]),
        (["--trainer.barebones=true"], ["trainer", "barebones"]),
        (["--trainer.gradient_clip_val=-1"], ["trainer.gradient_clip_val", "-1"]),
    ],
    ids=lambda value: value[0].lstrip("-").replace("\udcff", "surrogate") if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_impossible_values(cli, small, random_model, tmp_path, before_loading, options, words):
    message = cli.refused(*BASE, *small(random_model, tmp_path / "run"), "--data.init_args.tokens_per_micro_batch=1024", *options)
    assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists() and "\n" not in message


@pytest.mark.parametrize(
    "option", ["limit_train_batches=3", "limit_train_batches=.75", "val_check_interval=1", "max_steps=3", "fast_dev_run=1"]
)
def test_options_that_cut_a_rollout(cli, small, random_model, tmp_path, before_loading, option):
    options = (*small(random_model, tmp_path / "run"), "--data.init_args.optimizer_steps_per_rollout=2")
    message = cli.refused(*BASE, *options, f"--trainer.{option}")
    assert "rollouts of 2" in message and message.startswith("trainer."), message


def test_whole_rollouts_may_be_counted_in_steps(runs):
    trainer, _, _ = runs.fit(data=runs.data(optimizer_steps_per_rollout=2), limit_train_batches=2)
    assert trainer.global_step == 2


def test_a_verifier_that_only_fails_stops_the_run(runs, monkeypatch):
    from aer_lightning.data.rewards import VerifierOutcomeError
    from aer_lightning.data.rewards.countdown import CountdownGrader

    def broken(*_):
        raise RuntimeError("out of order")

    monkeypatch.setattr(CountdownGrader, "grade", broken)
    with pytest.raises(VerifierOutcomeError, match=r"^data\.init_args\.limits: 100\.0% of 16 answers are error .*out of order"):
        runs.fit(data=runs.data())


class Silent(TransformersEngine):
    """Ends every second completion before its first token."""

    def stream(self, requests, sampling):
        for index, completion in super().stream(requests, sampling):
            yield index, Completion([], [], "stop") if index % 2 else completion


def test_completions_without_a_token_train(runs, recorder):
    _, module, _ = runs.fit([FixedCoefficient(0.5), recorder], data=runs.data(engine=Silent()))
    assert any(not s.token_ids for batch in recorder.batches for s in batch.samples)
    assert all(math.isfinite(loss) for loss in recorder.losses) and all(torch.isfinite(p).all() for p in module.parameters())
