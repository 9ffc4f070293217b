"""The command line interrupted and run again: the same command goes on, and the end is that of a run that nobody disturbed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from aer_lightning.checkpoints.folder import checkpoints, read_manifest
from aer_lightning.checkpoints.restore import read_tensors
from tests.integration.conftest import ROOT, CommandLine, small

ROLLOUTS = 4


def command(model, run_dir, *extra):
    options = [
        "--curves.enabled=false",
        "--samples.every=1",
        "--checkpoint.every_n_rollouts=1",
        "--data.init_args.evaluation.init_args.size=4",
    ]
    return ["fit", "-c", "configs/aer.yaml", *small(model, run_dir, epochs=2), *options, *extra]


def interrupt(arguments, log, signum, when, *, env=None):
    """Run the command, send it a signal once ``when`` is in its output; its exit status."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "aer_lightning", *map(str, arguments)],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | (env or {}),
        )
        try:
            until = time.monotonic() + 240
            while when not in log.read_text(errors="replace"):
                assert process.poll() is None and time.monotonic() < until, log.read_text(errors="replace")[-3000:]
                time.sleep(0.05)
            process.send_signal(signum)
            return process.wait(timeout=120)
        finally:
            process.kill()


def result(run):
    """Everything of a run that does not tell the time."""
    with (run / "metrics.csv").open() as file:
        metrics = [{k: v for k, v in row.items() if v and "second" not in k} for row in csv.DictReader(file)]
    names = ("samples.jsonl", "evaluation.jsonl")
    return {
        "tensors": read_tensors(run / "checkpoints" / "last.ckpt", ["model.", "optimizer."]),
        "metrics": metrics,
        **{name: (run / name).read_text() for name in names},
        "events": sorted(events(run)),
    }


def events(run):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    for path in run.glob("events.*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag.startswith(("rollout/", "train/", "aer/", "val/")) and "second" not in value.tag:
                    yield event.step, value.tag, str(tensor_util.make_ndarray(value.tensor))


def assert_same(run, other):
    a, b = result(run), result(other)
    tensors, others = a.pop("tensors"), b.pop("tensors")
    assert tensors.keys() == others.keys() and all(torch.equal(tensors[k], others[k]) for k in tensors)
    for name in a:
        assert a[name] == b[name], name


@pytest.fixture(scope="module")
def whole(random_model, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    status, _, err = CommandLine.spawn(None, *command(random_model, run))
    assert status == 0, err[-3000:]
    return run


@pytest.mark.slow
def test_stopped_killed_damaged_and_run_again(whole, random_model, tmp_path):
    """SIGTERM; then SIGKILL; then the newest checkpoint is altered: one command goes on each time."""
    run, log = tmp_path / "run", tmp_path / "log"
    again = command(random_model, run, "--resume", "auto")
    assert interrupt(again, log, signal.SIGTERM, "rollout 1/4") == 128 + signal.SIGTERM
    said = log.read_text()
    assert "go on with: python -m aer_lightning fit" in said and "Traceback" not in said
    done = read_manifest(checkpoints(run / "checkpoints")[0])["step"]
    assert done < ROLLOUTS
    assert interrupt(again, log, signal.SIGKILL, "Restored all states") == -signal.SIGKILL
    newest = checkpoints(run / "checkpoints")[0]
    shard = next(newest.glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    status, _, err = CommandLine.spawn(None, *again)
    assert status == 0, err[-3000:]
    assert ("passed over" in err and "was altered" in err) and len(checkpoints(run / "checkpoints")) == 2
    assert_same(run, whole)
    status, out, _ = CommandLine.spawn(None, *again)
    assert status == 0 and "nothing is left to do" in out
    assert_same(run, whole)


ENGINE = """
import time
from aer_lightning.data.engines import TransformersEngine

class Stuck(TransformersEngine):
    calls = 0

    def stream(self, requests, sampling):
        Stuck.calls += 1
        if Stuck.calls > 3:
            print("generating for ever", flush=True)
            time.sleep(600)
        return super().stream(requests, sampling)
"""


@pytest.mark.slow
def test_a_generation_that_takes_too_long_is_given_up(whole, random_model, tmp_path):
    """Evaluation, two rollouts, and no end of the third generation: the state of the second step is what is kept."""
    (tmp_path / "stuck_engine.py").write_text(ENGINE)
    run, log = tmp_path / "run", tmp_path / "log"
    stuck = command(random_model, run, "--stop_grace=1", "--checkpoint.every_n_rollouts=100", "--trainer.check_val_every_n_epoch=2")
    stuck = [word.replace("=TransformersEngine", "=stuck_engine.Stuck") for word in stuck]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    assert interrupt(stuck, log, signal.SIGUSR1, "generating for ever", env={"PYTHONPATH": path}) == 128 + signal.SIGUSR1
    facts = read_manifest(checkpoints(run / "checkpoints")[0])
    assert facts["step"] == 2 and "stopped by SIGUSR1 after 2 optimizer steps" in log.read_text()
    status, _, err = CommandLine.spawn(None, *command(random_model, run, "--resume", "auto"))
    assert status == 0, err[-3000:]
    a, b = (read_tensors(r / "checkpoints" / "last.ckpt", ["model.", "optimizer."]) for r in (run, whole))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert (run / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()


@pytest.mark.slow
def test_a_second_signal_stops_at_once(random_model, tmp_path):
    """In a generation that never ends, with a long time of grace: workers and temporary files go too; the checkpoints are whole."""
    from tests.integration.test_leftovers import alive, descendants, wait_until

    (tmp_path / "stuck_engine.py").write_text(ENGINE)
    (tmp_path / "scratch").mkdir()
    rows = [{"id": str(i), "problem": f"{i} {i + 1}=", "answer": str(i)} for i in range(8)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(tmp_path / "problems.jsonl"), "template": "{problem}:"}
    prompts = {"class_path": "aer_lightning.data.prompts.JsonlPrompts", "init_args": source}
    (tmp_path / "overlay.yaml").write_text(json.dumps({"data": {"init_args": {"prompts": prompts}}}))
    run, log = tmp_path / "run", tmp_path / "log"
    stuck = [*command(random_model, run, "--stop_grace=600"), "-c", str(tmp_path / "overlay.yaml")]
    stuck = [word.replace("=TransformersEngine", "=stuck_engine.Stuck") for word in stuck]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "TMPDIR": str(tmp_path / "scratch")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "aer_lightning", *stuck], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        assert wait_until(lambda: "generating for ever" in log.read_text() or process.poll() is not None, 240)
        below = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: "once more stops it at once" in log.read_text(), 30) and process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 128 + signal.SIGINT
    finally:
        process.kill()
    said = log.read_text()
    assert "SIGINT: stopped at once" in said and "Traceback" not in said
    assert below and wait_until(lambda: not any(map(alive, below)), 20)
    assert wait_until(lambda: not os.listdir(tmp_path / "scratch"), 10)
    assert read_manifest(checkpoints(run / "checkpoints")[0])["step"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["ddp", "fsdp"])
def test_one_rank_is_asked_and_all_stop_and_another_strategy_goes_on(random_model, tmp_path, overlay):
    run, log = tmp_path / "run", tmp_path / "log"
    base = command(random_model, run, "--trainer.max_epochs=3")
    status = interrupt([*base, "-c", f"configs/strategy/{overlay}.yaml"], log, signal.SIGTERM, "rollout 1/6")
    assert status == 128 + signal.SIGTERM, log.read_text()[-3000:]
    newest = checkpoints(run / "checkpoints")[0]
    facts = read_manifest(newest)
    assert facts["world_size"] == 2 and 0 < facts["step"] < 6 and len(list(newest.glob("shard-*"))) == 2
    status, _, err = CommandLine.spawn(None, *base, "--resume", "auto")
    assert status == 0, err[-3000:]
    assert read_manifest(checkpoints(run / "checkpoints")[0])["step"] == 6
    rollouts = [json.loads(line)["rollout"] for line in (run / "samples.jsonl").read_text().splitlines()]
    assert sorted(set(rollouts)) == list(range(6)) and rollouts == sorted(rollouts), "no rollout twice and none missing"


def test_a_run_that_is_another_is_refused(cli, random_model, random_llama, tmp_path):
    run = tmp_path / "run"
    assert cli.run(*command(random_model, run, "--trainer.max_epochs=1", "--data.init_args.evaluation=[]"))[0] == 0
    samples = (run / "samples.jsonl").read_bytes()
    again = command(random_model, run, "--data.init_args.evaluation=[]", "--resume", "auto")
    changes = {
        "data.init_args.temperature": "0.5",
        "data.init_args.responses_per_prompt": "8",
        "data.init_args.prompts.init_args.numbers": "[2]",
        "model.init_args.pretrained": str(random_llama),
        "model.init_args.objective": "KLCovObjective",
        "seed_everything": "9",
    }
    for option, value in changes.items():
        said = cli.refused(*again, f"--{option}={value}")
        assert said.startswith("resume: ") and option in said and "->" in said and "--allow_changes" in said, said
    said = cli.refused(*again, "-c", "configs/grpo.yaml")
    assert "trainer.callbacks EntropyAnchor(" in said and "-> FixedCoefficient(coefficient=0.0)." in said
    assert "no option" in cli.refused(*again, "--allow_changes", "temprature")
    assert "leave out" in cli.refused(*again, "--ckpt_path", run / "checkpoints" / "last.ckpt")
    assert (run / "samples.jsonl").read_bytes() == samples, "a refusal loses nothing"
    status, _, err = cli.run(*again, "--data.init_args.temperature=0.5", "--allow_changes=temperature")
    assert status == 0 and "changed knowingly: data.init_args.temperature 1.0 -> 0.5" in err, err


def test_a_folder_that_is_no_run_is_left_alone(cli, random_model, tmp_path):
    (tmp_path / "thesis.txt").write_text("important")
    said = cli.refused(*command(random_model, tmp_path, "--resume", "auto"))
    assert said.startswith("run_dir: ") and "thesis.txt" in said and (tmp_path / "thesis.txt").exists()


def test_the_newest_run_of_a_name(cli, random_model, tmp_path, monkeypatch):
    from aer_lightning.resume import run_folder_of

    monkeypatch.chdir(tmp_path)
    assert run_folder_of(None, "n") is None
    for name in ("2025-01-01_00-00-00", "2025-01-02_00-00-00", "2024-12-31_00-00-00"):
        (tmp_path / "runs" / "n" / name).mkdir(parents=True)
    assert run_folder_of(None, "n").name == "2025-01-02_00-00-00"
