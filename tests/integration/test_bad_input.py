"""What a user can get wrong: one line that names the option, or the file and line, and says what to do; nothing is lost."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from aer_lightning.callbacks import FixedCoefficient
from aer_lightning.data.engines import TransformersEngine
from aer_lightning.errors import NonFiniteLossError, StaleWeightsError

BASE = ("fit", "-c", "configs/aer.yaml")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--data.init_args.temprature=1", ["temprature", "temperature"]),
        ("--trainer.max_epoch=3", ["trainer.max_epoch", "trainer.max_epochs"]),
        ("--trainer.max_epochs=many", ["trainer.max_epochs"]),
        ("--data.init_args.temperature=0", ["data.init_args.temperature"]),
        ("--data.init_args.responses_per_prompt=1", ["responses_per_prompt", "at least 2"]),
        ("--data.init_args.micro_batch_size=7", ["data.init_args.micro_batch_size", "tokens_per_micro_batch"]),
        ("--data.init_args.tokens_per_micro_batch=16", ["data.init_args.tokens_per_micro_batch", "longest sequence"]),
        ("--data.init_args.optimizer_steps_per_rollout=3", ["data.init_args.prompts_per_rollout", "multiple of 3"]),
        ("--data.init_args.eval_ks=[1, 64]", ["data.init_args.eval_ks"]),
        ("--data.init_args.engine=Imaginary", ["engine", "Imaginary"]),
        ("--data.init_args.engine.class_path=aer_lightning.data.engines.Imaginary", ["engine", "Imaginary"]),
        ("--trainer.callbacks.rho=3", ["rho", "at most 1"]),
        ("--trainer.callbacks.max_scale=.5", ["max_scale", "at least 1"]),
        ("--trainer.accumulate_grad_batches=5", ["trainer.accumulate_grad_batches", "leave it out"]),
        (
            "--model.init_args.objective=aer_lightning.algorithms.objectives.KLCovObjective",
            ["optimizer_steps_per_rollout", "set 2 or more"],
        ),
        ("--model.init_args.kl_weight=-1", ["model.init_args.kl_weight"]),
        ("--model.init_args.lora={r: 0}", ["model.init_args.lora.r", "at least 1"]),
        ("--model.init_args.pretrained=/nowhere/model", ["model.init_args.pretrained", "/nowhere/model"]),
        ("--ckpt_path=nothing.ckpt", ["ckpt_path", "nothing.ckpt"]),
        ("--config=nothing.yaml", ["config", "nothing.yaml"]),
    ],
)
def test_bad_options_are_refused_before_anything_is_loaded(cli, small, random_model, tmp_path, before_loading, option, words):
    message = cli.refused(*BASE, *small(random_model, tmp_path / "run"), option)
    assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("callbacks", "words"),
    [
        ([("EntropyAnchor", {"tau": -0.4}), ("GlobalCoefficient", {})], ["tau"]),
        ([("DifficultyCoefficient", {"rho": 0.5})], ["DifficultyCoefficient", "GlobalCoefficient"]),
        ([("GlobalCoefficient", {})], ["GlobalCoefficient", "EntropyAnchor"]),
        ([("GlobalCoefficient", {"controller": "multiplicative"}), ("EntropyAnchor", {})], ["controller"]),
        ([("ADAPOClip", {})], ["ADAPOClip", "EntropyAnchor"]),
        ([("EntropyAnchor", {}), ("REPORScale", {})], ["model.init_args.objective", "REPORScale", "zeta", "ClipObjective"]),
        ([("EntropyAnchor", {}), ("ADAPOClip", {})], ["data.init_args.optimizer_steps_per_rollout", "ADAPOClip", "2 or more"]),
        ([("EntropyAnchor", {}), ("ADAPOClip", {}), ("STAREGate", {})], ["ADAPOClip and STAREGate", "keep one"]),
        ([("EntropyAnchor", {}), ("GlobalCoefficient", {}), ("ADAPOClip", {})], ["GlobalCoefficient and ADAPOClip", "keep one"]),
        ([("EntropyAnchor", {}), ("EntroPICWeight", {"kp": -1.0})], ["kp", "at least 0"]),
        ([("EntropyAnchor", {}), ("GlobalCoefficient", {"kp": 0.3})], ["ki", "kp is given without it"]),
        ([("EntropyAnchor", {}), ("GlobalCoefficient", {"kp": -0.3, "ki": 0.1})], ["kp", "above 0"]),
        ([("EntropyAnchor", {}), ("GlobalCoefficient", {"controller": "pi", "eta": 0.1})], ["eta", "kp and ki"]),
    ],
)
def test_entropy_stacks_that_make_no_sense(cli, small, random_model, tmp_path, before_loading, callbacks, words):
    overlay = tmp_path / "overlay.yaml"
    listed = [{"class_path": f"aer_lightning.callbacks.{name}", "init_args": args} for name, args in callbacks]
    overlay.write_text(json.dumps({"trainer": {"callbacks": listed}}))
    message = cli.refused(*BASE, "-c", overlay, *small(random_model, tmp_path / "run"))
    assert all(word in message for word in words), message


def test_an_output_folder_that_exists(cli, small, random_model, tmp_path, before_loading):
    run = tmp_path / "run"
    run.mkdir()
    (run / "precious.txt").write_text("keep")
    message = cli.refused(*BASE, *small(random_model, run))
    assert "run_dir" in message and str(run) in message
    assert [p.name for p in run.iterdir()] == ["precious.txt"]


def jsonl_overlay(tmp_path, lines):
    data = tmp_path / "problems.jsonl"
    if lines is not None:
        data.write_text("".join(f"{line}\n" for line in lines))
    overlay = tmp_path / "jsonl.yaml"
    prompts = {"class_path": "aer_lightning.data.prompts.JsonlPrompts", "init_args": {"path": str(data), "template": "{problem}:"}}
    overlay.write_text(json.dumps({"data": {"init_args": {"prompts": prompts, "evaluation": []}}}))
    return overlay, data


GOOD = json.dumps({"id": "a", "problem": "1 2=3", "answer": "3", "source": "x"})


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (None, ["problems.jsonl"]),
        ([GOOD, '{"id": "b", "problem": '], ["problems.jsonl", "2"]),
        ([GOOD, GOOD.replace('"a"', '"b"'), '{"id": "c", "problem": "1 2"}'], ["problems.jsonl", "3", "answer"]),
        ([GOOD, "[1, 2]"], ["problems.jsonl", "2"]),
        ([], ["problems.jsonl"]),
    ],
    ids=["missing", "malformed", "field", "no object", "empty"],
)
def test_prompt_files_are_named_with_their_line(cli, small, random_model, tmp_path, before_loading, lines, words):
    overlay, _ = jsonl_overlay(tmp_path, lines)
    message = cli.refused(*BASE, "-c", overlay, *small(random_model, tmp_path / "run"))
    assert all(word in message for word in words), message


def test_more_prompts_per_rollout_than_there_are(cli, small, random_model, tmp_path):
    overlay, _ = jsonl_overlay(tmp_path, [GOOD])
    message = cli.refused(*BASE, "-c", overlay, *small(random_model, tmp_path / "run"))
    assert "prompts_per_rollout" in message and "1 usable" in message


@pytest.mark.parametrize(("missing", "word"), [("tokenizer*", "tokenizer"), ("*.safetensors", "weights"), ("config.json", "config.json")])
def test_incomplete_model_folders(cli, small, random_model, tmp_path, before_loading, missing, word):
    folder = tmp_path / "model"
    shutil.copytree(random_model, folder)
    for path in folder.glob(missing):
        path.unlink()
    message = cli.refused(*BASE, *small(folder, tmp_path / "run"))
    assert "model.init_args.pretrained" in message and word in message and str(folder) in message


def test_vllm_not_installed_says_what_to_install(cli, small, random_model, tmp_path, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else real(name, *a))
    message = cli.refused(*BASE, *small(random_model, tmp_path / "run"), "--data.init_args.engine=VLLMEngine")
    assert "install" in message and "TransformersEngine" in message


def test_a_non_finite_loss_stops_before_the_update(runs):
    import lightning.pytorch as pl

    class Poison(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch.info.index == 1:
                batch.advantage = batch.advantage + float("nan")
                self.names = set(batch.prompt_ids)

    poison, module = Poison(), runs.module()
    with pytest.raises(NonFiniteLossError) as caught:
        runs.fit([poison], data=runs.data(rollouts_per_epoch=2), module=module)
    assert "rollout 1" in str(caught.value) and all(name in str(caught.value) for name in poison.names)
    assert module.weight_version == 1 and all(torch.isfinite(p).all() for p in module.parameters())


class Deaf(TransformersEngine):
    """Takes the first weights only, says it took all, and has nothing to be read back: only its log-probabilities tell."""

    def sync_weights(self, named_weights, version):
        if version == 0:
            super().sync_weights(named_weights, version)
        list(named_weights)
        self.weight_version = version

    def checksums(self, names):
        return {}


def test_stale_weights_are_detected_and_stop_the_run(runs):
    with pytest.raises(StaleWeightsError, match="max_mismatch"):
        runs.fit([FixedCoefficient(0.5)], data=runs.data(engine=Deaf(), rollouts_per_epoch=3))


def test_the_limit_on_the_mismatch_is_an_option(runs, recorder):
    runs.fit([FixedCoefficient(0.5), recorder], data=runs.data(engine=Deaf(), rollouts_per_epoch=3, max_mismatch=10.0))
    assert recorder.rollouts[-1]["rollout/mismatch_logprob"] > 1e-3
