"""The command line as its users know it, on a random model, with the shipped configs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
# configs/study/plan.yaml is a list of runs, not a configuration of one; tests/test_study.py reads it.
# Without the plans of studies, which no subcommand but study reads (tests/study/test_plan.py), and the strategies, which need ranks.
OVERLAYS = sorted(
    p.relative_to(ROOT) for p in (ROOT / "configs").rglob("*.yaml") if "strategy" not in p.parts and "\nmethods:" not in p.read_text()
)


def test_help_imports_nothing_heavy():
    heavy = "('torch', 'lightning', 'numpy', 'transformers')"
    code = f"import sys; from aer_lightning.__main__ import main; main(['--help']); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("fit", "validate", "test", "predict", "grade", "compare"):
        assert command in done.stdout


def test_version_and_unknown_command(cli):
    assert cli.run("--version")[1].startswith("aer_lightning ")
    status, _, err = cli.run("train")
    assert status == 2 and "train" in err and "fit" in err


def test_default_run_leaves_what_a_user_needs(cli, small, random_model, tmp_path, read_metrics):
    run = tmp_path / "run"
    status, out, err = cli.run("fit", "-c", "configs/aer.yaml", *small(random_model, run, epochs=2))
    assert status == 0, err
    assert {"config.yaml", "metrics.csv", "samples.jsonl", "curves.png", "summary.json", "checkpoints", "model"} <= {
        p.name for p in run.iterdir()
    }
    assert list(run.glob("events.out.tfevents*"))
    assert (run / "checkpoints" / "last.ckpt").exists()
    rows = read_metrics(run)
    assert [row["rollout/index"] for row in rows] == [0, 1, 2, 3]
    assert {"rollout/reward", "rollout/entropy", "aer/alpha", "aer/target_entropy", "train/loss", "train/grad_norm"} <= rows[0].keys()
    assert "H_0" in out and str(run) in out

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aer_lightning.checkpoints.restore import read_tensors

    exported = AutoModelForCausalLM.from_pretrained(run / "model")
    AutoTokenizer.from_pretrained(run / "model")
    checkpoint = read_tensors(run / "checkpoints" / "last.ckpt", ["model."])
    assert all(torch.equal(tensor, checkpoint[f"model.policy.model.{name}"]) for name, tensor in exported.state_dict().items())

    # The saved config alone starts the same run again.
    again = tmp_path / "again"
    status, _, err = cli.run("fit", "-c", run / "config.yaml", f"--run_dir={again}")
    assert status == 0, err
    same = ("rollout/entropy", "train/loss", "aer/alpha", "rollout/reward")
    assert [[row[k] for k in same] for row in read_metrics(again)] == [[row[k] for k in same] for row in rows]


def test_validate_test_and_predict(cli, small, random_model, tmp_path):
    for command in ("validate", "test", "predict"):
        status, out, err = cli.run(command, "-c", "configs/aer.yaml", *small(random_model, tmp_path / command))
        assert status == 0, err
        if command == "predict":
            rows = [json.loads(line) for line in (tmp_path / command / "predictions.jsonl").read_text().splitlines()]
            assert len(rows) == 228 * 2 and {"id", "outcome", "completion", "extracted"} <= rows[0].keys()
            assert len({(row["id"], row["sample"]) for row in rows}) == len(rows)
        else:
            assert "pass@2" in out


def test_later_files_and_the_command_line_win(cli, tmp_path):
    one = tmp_path / "one.yaml"
    one.write_text("name: one\ndata:\n  init_args:\n    temperature: 0.9\n    max_new_tokens: 11\n")
    status, out, _ = cli.run("fit", "-c", "configs/aer.yaml", "-c", one, "--data.init_args.max_new_tokens=12", "--print_config")
    config = yaml.safe_load(out)
    assert status == 0 and config["name"] == "one"
    assert config["data"]["init_args"]["temperature"] == 0.9 and config["data"]["init_args"]["max_new_tokens"] == 12
    assert config["data"]["init_args"]["responses_per_prompt"] == 8, "what no file says again stays"


def test_an_override_reaches_every_place_that_refers_to_it(cli, tmp_path, random_model, random_llama):
    path = tmp_path / "refer.yaml"
    path.write_text("model:\n  init_args:\n    pretrained: " + str(random_model) + "\n    reference: ${model.init_args.pretrained}\n")
    override = f"--model.init_args.pretrained={random_llama}"
    assert cli.run("fit", "-c", "configs/aer.yaml", "-c", path, override, "--print_config")[0] == 0
    from aer_lightning.cli import build

    command_line = build(["fit", "-c", "configs/aer.yaml", "-c", str(path), override], run=False)
    assert command_line.model.pretrained == command_line.model.reference == str(random_llama)


def test_the_rank_timeout_reaches_the_watch(cli, tmp_path, random_model):
    from aer_lightning.callbacks.rank_watch import RankWatch
    from aer_lightning.cli import build

    options = [f"--model.init_args.pretrained={random_model}", f"--run_dir={tmp_path / 'r'}", "--rank_timeout=7"]
    callbacks = build(["fit", "-c", "configs/aer.yaml", *options], run=False).trainer.callbacks
    assert [callback.timeout for callback in callbacks if isinstance(callback, RankWatch)] == [7.0]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=str)
def test_every_config_is_read_and_built(cli, overlay, tmp_path):
    from aer_lightning.cli import build

    if overlay.stem == "mlflow":
        pytest.importorskip("mlflow", reason="see test_loggers.py")
    whole = "class_path" in (yaml.safe_load((ROOT / overlay).read_text()).get("data") or {})
    base = "configs/paper/qwen3_4b.yaml" if "paper" in overlay.parts else "configs/aer.yaml"
    files = [str(overlay)] if whole else [base, str(overlay)]
    command_line = build(["fit", *[a for f in files for a in ("-c", f)], f"--run_dir={tmp_path / 'r'}"], run=False)
    assert command_line.trainer is not None
    assert len((ROOT / overlay).read_text().splitlines()) <= 80


def test_strategy_overlays(cli, tmp_path):
    from aer_lightning.cli import build

    def strategy(name, *options):
        files = ["-c", "configs/aer.yaml", "-c", f"configs/strategy/{name}.yaml"]
        return build(["fit", *files, "--trainer.accelerator=cpu", f"--run_dir={tmp_path / 'r'}", *options], run=False).trainer.strategy

    assert type(strategy("ddp")).__name__ == "DDPStrategy"
    for name in ("fsdp", "fsdp2"):
        sharded = strategy(name, "--trainer.devices=4")
        assert type(sharded).__name__ == "FSDP2Strategy" and sharded.num_processes == 4
    assert type(strategy("ddp", "--trainer.strategy=fsdp")).__name__ == "FSDP2Strategy"


@pytest.mark.parametrize("overlay", ["grpo", "fixed_entropy"])
def test_baselines_run(cli, small, overlay, random_model, tmp_path, read_metrics):
    run = tmp_path / "run"
    status, _, err = cli.run("fit", "-c", "configs/aer.yaml", "-c", f"configs/{overlay}.yaml", *small(random_model, run))
    assert status == 0, err
    alphas = {row["aer/alpha"] for row in read_metrics(run)}
    assert len(alphas) == 1 and alphas.pop() == pytest.approx(0.0 if overlay == "grpo" else 0.01)


def test_resume_by_the_command_line(cli, small, random_model, tmp_path, read_metrics):
    options = ["fit", "-c", "configs/aer.yaml"]
    for name, epochs, extra in (
        ("whole", 2, []),
        ("half", 1, []),
        ("rest", 2, [f"--ckpt_path={tmp_path / 'half' / 'checkpoints' / 'last.ckpt'}"]),
    ):
        status, _, err = cli.run(*options, *small(random_model, tmp_path / name, epochs=epochs), *extra)
        assert status == 0, err
    timed = ("seconds", "per_second")
    rows = {
        name: [{k: v for k, v in row.items() if not k.endswith(timed)} for row in read_metrics(tmp_path / name)]
        for name in ("whole", "half", "rest")
    }
    assert len(rows["half"]) == 2 and rows["half"] == rows["whole"][:2]
    assert rows["rest"] == rows["whole"], "the rows before the checkpoint are kept"


def test_each_run_has_its_own_folder(tmp_path, monkeypatch):
    from aer_lightning.cli import run_dir

    monkeypatch.chdir(tmp_path)
    first = run_dir(None, "x")
    first.mkdir(parents=True)
    second = run_dir(None, "x")
    assert first != second and first.parent == second.parent == Path("runs/x")
