"""Adapters by the command line: on one process and sharded over two the same, the engine in step, checkpoints small."""

from __future__ import annotations

import json

import pytest
import torch

OPTIONS = {
    "trainer.max_epochs": 1,
    "data.init_args.rollouts_per_epoch": 3,
    "data.init_args.prompts_per_rollout": 8,
    "data.init_args.optimizer_steps_per_rollout": 2,
    "data.init_args.max_new_tokens": 14,
    "model.init_args.kl_weight": 0.01,
    "export.adapters": "both",
    "curves.enabled": "false",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three rollouts of two optimizer steps each."""
    from aer_lightning.assets import resolve_model
    from tests.integration.conftest import CommandLine, read_metrics, small

    out = {}
    for name, overlay in (("single", []), ("fsdp2", ["-c", "configs/strategy/fsdp2.yaml"])):
        run = tmp_path_factory.mktemp("lora") / name
        arguments = [*small(resolve_model("countdown-tiny"), run), *(f"--{k}={v}" for k, v in OPTIONS.items())]
        status, _, err = CommandLine.spawn(None, "fit", "-c", "configs/aer.yaml", "-c", "configs/lora.yaml", *overlay, *arguments)
        assert status == 0, err[-3000:]
        out[name] = read_metrics(run), run
    return out


@pytest.mark.slow
def test_adapters_train_alike_on_one_process_and_on_shards(results):
    (single, _), (sharded, _) = results["single"], results["fsdp2"]
    assert len(single) == len(sharded) == 3
    for a, b in zip(single, sharded, strict=True):
        for name in ("train/loss", "train/reference_kl", "rollout/entropy", "rollout/reward"):
            assert b[name] == pytest.approx(a[name], abs=1e-5), name
        assert b["train/grad_norm"] == pytest.approx(a["train/grad_norm"], rel=1e-4)
        assert max(a["rollout/mismatch_logprob"], b["rollout/mismatch_logprob"]) < 1e-5, "the engine has the merged weights"
    assert single[-1]["train/reference_kl"] > 0


@pytest.mark.slow
def test_exports_are_alike(results):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from aer_lightning.assets import resolve_model

    models = [AutoModelForCausalLM.from_pretrained(run / "model") for _, run in results.values()]
    base = AutoModelForCausalLM.from_pretrained(resolve_model("countdown-tiny"))
    merged = PeftModel.from_pretrained(base, results["fsdp2"][1] / "adapters").merge_and_unload()
    one, two, three = (model.state_dict() for model in (*models, merged))
    assert all(torch.allclose(tensor, two[name], atol=3e-4) for name, tensor in one.items())
    assert all(torch.allclose(tensor, three[name], atol=1e-6) for name, tensor in two.items())
    assert json.loads((results["single"][1] / "adapters" / "adapter_config.json").read_text())["r"] == 16


@pytest.mark.slow
def test_a_checkpoint_of_shards_goes_on_in_one_process(results, tmp_path):
    from aer_lightning.assets import resolve_model
    from aer_lightning.checkpoints.folder import checkpoints
    from aer_lightning.checkpoints.restore import read_tensors
    from aer_lightning.modules.adapters import is_adapter
    from tests.integration.conftest import CommandLine, read_metrics, small

    path = checkpoints(results["fsdp2"][1] / "checkpoints")[0]
    assert all(is_adapter(name) for name in read_tensors(path, ["model."]))
    options = OPTIONS | {"trainer.max_epochs": 2, "ckpt_path": path, "trainer.limit_val_batches": 0}
    arguments = [*small(resolve_model("countdown-tiny"), tmp_path / "run"), *(f"--{k}={v}" for k, v in options.items())]
    status, _, err = CommandLine.spawn(None, "fit", "-c", "configs/aer.yaml", "-c", "configs/lora.yaml", *arguments)
    assert status == 0, err[-3000:]
    rows = read_metrics(tmp_path / "run")
    assert rows[-1]["rollout/index"] == 5 and all(r["rollout/mismatch_logprob"] < 1e-5 for r in rows)
