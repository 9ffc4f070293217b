"""The same global batch on one process, on two with DDP and on two with FSDP2: the same samples and the same losses."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from aer_lightning.checkpoints.restore import read_tensors

COLUMNS = (
    "train/loss",
    "train/policy_loss",
    "train/entropy_bonus",
    "rollout/entropy",
    "rollout/reward",
    "aer/alpha",
    "aer/active_tokens",
    "aer/mean_coefficient",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three rollouts of two optimizer steps each, by the command line, under every strategy."""
    from aer_lightning.assets import resolve_model
    from tests.integration.conftest import CommandLine, read_metrics, small

    folder = tmp_path_factory.mktemp("strategies")
    out = {}
    stack = [("EntropyAnchor", {}), ("GlobalCoefficient", {"alpha_init": 0.05}), ("DifficultyCoefficient", {"normalize": True})]
    overlay_path = folder / "stack.json"
    listed = [{"class_path": f"aer_lightning.callbacks.{name}", "init_args": args} for name, args in stack]
    overlay_path.write_text(json.dumps({"trainer": {"callbacks": listed}}))
    options = {
        "trainer.max_epochs": 1,
        "data.init_args.rollouts_per_epoch": 3,
        "data.init_args.prompts_per_rollout": 8,
        "data.init_args.optimizer_steps_per_rollout": 2,
        "data.init_args.tokens_per_micro_batch": 160,
        "data.init_args.max_new_tokens": 14,
        "model.init_args.kl_weight": 0.01,
        "curves.enabled": "false",
        "samples.every": 1,
        "samples.limit": "null",
    }
    for name, overlay in (("single", []), ("ddp", ["-c", "configs/strategy/ddp.yaml"]), ("fsdp2", ["-c", "configs/strategy/fsdp.yaml"])):
        run = folder / name
        arguments = [*small(resolve_model("countdown-tiny"), run), *(f"--{k}={v}" for k, v in options.items())]
        status, _, err = CommandLine.spawn(None, "fit", "-c", "configs/aer.yaml", "-c", overlay_path, *overlay, *arguments)
        assert status == 0, err[-3000:]
        samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
        out[name] = read_metrics(run), samples, run
    return out


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_losses_do_not_depend_on_the_strategy(results, strategy):
    single, sharded = results["single"][0], results[strategy][0]
    assert len(single) == len(sharded) == 3
    for a, b in zip(single, sharded, strict=True):
        assert {k: b[k] for k in COLUMNS} == pytest.approx({k: a[k] for k in COLUMNS}, abs=1e-5)
        assert b["rollout/entropy"] == pytest.approx(a["rollout/entropy"], abs=1e-6)
        assert b["train/grad_norm"] == pytest.approx(a["train/grad_norm"], rel=1e-4)
        assert b["train/reference_kl"] == pytest.approx(a["train/reference_kl"], abs=1e-6)
    assert {r["train/loss"] for r in single} != {0.0} and single[-1]["aer/alpha"] != 0


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_samples_do_not_depend_on_the_strategy(results, strategy):
    """Rank zero writes its share: each of its samples is one of the single process's."""
    single, sharded = (
        Counter((r["rollout"], r["id"], r["completion"], r["advantage"]) for r in results[n][1]) for n in ("single", strategy)
    )
    assert single.total() == 96 and sharded.total() == 48
    assert sharded <= single


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_weights_and_validation_do_not_depend_on_the_strategy(results, strategy):
    paths = [results[name][2] / "checkpoints" / "last.ckpt" for name in ("single", strategy)]
    a, b = (read_tensors(path, ["model."]) for path in paths)
    assert a.keys() == b.keys()
    # Adam divides by the root of a square: where a gradient is nearly 0, its sign decides a whole step of the learning rate.
    differences = torch.cat([(a[k] - b[k]).abs().flatten() for k in a])
    assert differences.max() < 3e-4 and (differences < 1e-5).float().mean() > 0.99
    assert (results[strategy][2] / "model" / "model.safetensors").exists()
    one, two = ((results[name][2] / "evaluation.jsonl").read_text().splitlines() for name in ("single", strategy))
    assert len(one) == len(two) and sorted(one)[: len(one) // 2] == sorted(two)[: len(two) // 2], "the initial policy's counts are equal"


@pytest.mark.slow
def test_unequal_lengths_make_equal_collectives(random_model, tmp_path):
    """Under DDP and FSDP2, whenever gradients are reduced: both ranks make as many passes and as many collectives, and end."""
    import subprocess
    import sys
    from pathlib import Path

    root = Path(__file__).parents[2]
    weights = {}
    for strategy, reduce in (("ddp", "each_pack"), ("fsdp2", "each_pack"), ("fsdp2", "last_pack")):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--rdzv_backend=c10d"]
        folder = tmp_path / f"{strategy}-{reduce}"
        folder.mkdir()
        script = [str(root / "tests" / "integration" / "unequal_ranks.py"), str(random_model), strategy, reduce, str(folder)]
        done = subprocess.run([*command, "--rdzv_endpoint=localhost:0", *script], capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr[:3000] + done.stderr[-3000:]
        a, b = (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))
        assert a["counts"] == b["counts"] and sum(a["counts"].values()) > 10
        assert [len(p) for p in a["packs"]] == [len(p) for p in b["packs"]] and max(len(p) for p in a["packs"]) > 1
        assert abs(a["tokens"] - b["tokens"]) <= 40, "no rank has more than one sequence more than the other"
        weights[strategy, reduce] = a["weights"]
        assert a["weights"] == b["weights"]
    assert len(weights) == 3 and max(weights.values()) == pytest.approx(min(weights.values()), rel=1e-6)
