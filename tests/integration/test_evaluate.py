"""``validate -c configs/eval.yaml``: the table against its own completions, the same again, and after being killed half-way."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aer_lightning.assets import resolve_model

ROOT = Path(__file__).parents[2]
N = 4
FILES = ("evaluation.md", "evaluation.json", "completions.jsonl", "evaluation.jsonl")


@pytest.fixture(scope="module")
def overlay(tmp_path_factory):
    """Two Countdown sets, so that the shipped model has something to be right about, and a file with a bad gold answer."""
    folder = tmp_path_factory.mktemp("benchmarks")
    lines = [{"id": f"f/{i}", "problem": f"{i} {i + 1}={2 * i + 1}:", "answer": str(2 * i + 1)} for i in range(1, 6)]
    lines[1]["answer"], lines[2]["problem"] = "$", "1" * 60
    (folder / "file.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    countdown = "aer_lightning.data.prompts.CountdownPrompts"
    sources = [
        {"class_path": countdown, "init_args": {"split": "validation", "numbers": [2, 3], "size": 20, "name": "easy"}},
        {"class_path": countdown, "init_args": {"split": "validation", "numbers": [4], "size": 6, "name": "hard"}},
        {"class_path": "aer_lightning.data.prompts.JsonlPrompts", "init_args": {"path": str(folder / "file.jsonl")}},
    ]
    path = folder / "overlay.json"
    path.write_text(json.dumps({"data": {"init_args": {"evaluation": sources}}}))
    return path


def options(overlay, run, model="countdown-tiny", cache="null", **changes):
    values = {
        "run_dir": run,
        "trainer.accelerator": "cpu",
        "model.init_args.pretrained": resolve_model(model) if model == "countdown-tiny" else model,
        "data.init_args.engine": "TransformersEngine",
        "data.init_args.eval_samples": N,
        "data.init_args.eval_ks": "[1, 2, 4]",
        "data.init_args.max_prompt_tokens": 40,
        "data.init_args.max_new_tokens": 26,
        "data.init_args.eval_batch_prompts": 2,
        "data.init_args.eval_cache": cache,
    } | changes
    return ["-c", "configs/eval.yaml", "-c", str(overlay), *(f"--{key}={value}" for key, value in values.items())]


def read(run, name):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(overlay, tmp_path_factory):
    """An evaluation that nothing interrupts, without a cache: run folder and what was printed."""
    from tests.integration.conftest import CommandLine

    run = tmp_path_factory.mktemp("whole") / "run"
    status, out, err = CommandLine.spawn(None, "validate", *options(overlay, run), env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert status == 0, err
    return run, out


def test_the_table_is_what_the_completions_say(whole):
    run, _ = whole
    result = json.loads((run / "evaluation.json").read_text())
    assert {name: s["problems"] for name, s in result["sources"].items()} == {"easy": 20, "hard": 6, "file": 3}
    rows = read(run, "completions.jsonl")
    for name, source in result["sources"].items():
        groups = [
            [r for r in rows if (r["source"], r["id"]) == key]
            for key in dict.fromkeys((r["source"], r["id"]) for r in rows if r["source"] == name)
        ]
        assert [[r["sample"] for r in g] for g in groups] == [list(range(N))] * source["problems"]
        for k in (1, 2, 4):
            values = [statistics.fmean(any(r["outcome"] == "correct" for r in c) for c in itertools.combinations(g, k)) for g in groups]
            assert source["figures"][f"pass@{k}"] == pytest.approx(statistics.fmean(values), abs=1e-6)
            assert source["figures"][f"pass@{k}_se"] == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-6)
        for outcome in ("correct", "wrong", "unparsed"):
            share = statistics.fmean(r["outcome"] == outcome for g in groups for r in g)
            assert source["figures"][outcome] == pytest.approx(share, abs=1e-6)
        lengths = statistics.fmean(r["tokens"] for g in groups for r in g)
        assert source["figures"]["response_length"] == pytest.approx(lengths, rel=1e-6)
    counted = read(run, "evaluation.jsonl")
    assert [(r["source"], r["id"]) for r in counted] == list(dict.fromkeys((r["source"], r["id"]) for r in rows))
    figures = result["sources"]["easy"]["figures"]
    assert 0.1 < figures["pass@1"] < figures["pass@4"] <= 1 and figures["2 numbers/pass@1"] > figures["3 numbers/pass@1"]


def test_the_table_is_printed_once_with_what_it_rests_on(whole):
    run, out = whole
    printed = [line.rstrip() for line in out.splitlines()]
    saved = [line.rstrip() for line in (run / "evaluation.md").read_text().splitlines()]
    start = printed.index(saved[0])
    assert printed[start : start + len(saved)] == saved
    assert "Validate metric" not in out, "Lightning's own table would say it all again"
    text = "\n".join(saved)
    assert f"n = {N} samples" in text and "temperature 1" in text and "at most 26 new tokens" in text and "seed 1" in text
    assert "gold answers all parse: easy, hard" in text
    assert "GOLD ANSWERS DO NOT ALL PARSE in file: 1 of 5 left out (f/2)" in text
    assert "prompts too long in file: 1 of 5 left out (f/3)" in text


def test_another_seed_gives_other_completions(whole, overlay, cli, tmp_path):
    status, _, err = cli.run("validate", *options(overlay, tmp_path / "other", seed_everything=2))
    assert status == 0, err
    assert (tmp_path / "other" / "completions.jsonl").read_bytes() != (whole[0] / "completions.jsonl").read_bytes()
    assert "seed 2" in (tmp_path / "other" / "evaluation.md").read_text()


def kept(folder):
    return [
        json.loads(line)["id"] for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines(True) if line.endswith(b"]}\n")
    ]


@pytest.mark.slow
def test_killed_half_way_it_goes_on_and_the_same_seed_gives_the_same_files(whole, overlay, cli, tmp_path):
    cache = tmp_path / "cache"
    command = [sys.executable, "-m", "aer_lightning", "validate", *options(overlay, tmp_path / "killed", cache=cache)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 200
    while len(kept(cache)) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = kept(cache)
    assert 4 <= len(before) < 29, "killed on its way"
    assert not (tmp_path / "killed" / "evaluation.md").exists()
    status, _, err = cli.run("validate", *options(overlay, tmp_path / "run", cache=cache))
    assert status == 0, err
    assert set(before) < set(kept(cache)), "what was there is still there"
    assert sorted(kept(cache)) == sorted({r["id"] for r in read(whole[0], "completions.jsonl")}), "and nothing was drawn twice"
    for file in FILES:
        assert (tmp_path / "run" / file).read_bytes() == (whole[0] / file).read_bytes(), file


def test_a_checkpoint_is_evaluated_and_not_the_folder_it_started_from(whole, overlay, cli, small, tmp_path):
    run, cache = tmp_path / "fit", tmp_path / "cache"
    fast = ["--model.init_args.optimizer.init_args.lr=0.003", "--curves.enabled=false", "--data.init_args.evaluation=[]"]
    assert cli.run("fit", "-c", "configs/aer.yaml", *small(resolve_model("countdown-tiny"), run), *fast)[0] == 0
    last = run / "checkpoints" / "last.ckpt"
    status, out, err = cli.run("validate", *options(overlay, tmp_path / "ckpt", cache=cache), f"--ckpt_path={last}")
    assert status == 0, err
    assert f"checkpoint {last}" in out
    assert cli.run("validate", *options(overlay, tmp_path / "export", model=run / "model", cache=cache))[0] == 0
    same = (tmp_path / "ckpt" / "completions.jsonl").read_bytes()
    assert (tmp_path / "export" / "completions.jsonl").read_bytes() == same, "the checkpoint is what was exported"
    assert (whole[0] / "completions.jsonl").read_bytes() != same


def test_no_source_and_more_tries_than_samples_are_refused(overlay, cli, tmp_path):
    message = cli.refused("validate", *options(overlay, tmp_path / "run"), "--data.init_args.evaluation=[]")
    assert "data.init_args.evaluation" in message and "at least one source" in message
    message = cli.refused("validate", *options(overlay, tmp_path / "run"), "--data.init_args.eval_ks=[1, 8]")
    assert "data.init_args.eval_ks" in message and "8" in message
    assert not (tmp_path / "run").exists()


def test_local_files_by_the_command_line_alone(cli, tmp_path):
    from aer_lightning.cli import build

    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    preset = "--data.init_args.evaluation+=aer_lightning.data.prompts."
    chosen = ["--data.init_args.evaluation=[]"]
    for name, path in zip(("GSM8K", "AIME25"), paths, strict=True):
        chosen += [f"{preset}{name}", f"--data.init_args.evaluation.path={path}"]
    built = build(["validate", "-c", "configs/eval.yaml", *chosen, f"--run_dir={tmp_path / 'run'}"], run=False)
    assert [(s.name, s.path) for s in built.datamodule.evaluation] == [("gsm8k", str(paths[0])), ("aime25", str(paths[1]))]


@pytest.mark.slow
def test_two_processes_give_the_table_of_one_and_one_takes_up_what_two_have_done(whole, overlay, cli, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    arguments = [*options(overlay, tmp_path / "two", cache=cache), "-c", "configs/strategy/ddp.yaml"]
    status, _, err = cli.spawn("validate", *arguments, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert status == 0, err[-3000:]
    assert len(list(cache.glob("easy-*.jsonl"))) == 2
    assert (tmp_path / "two" / "evaluation.md").read_text() == (whole[0] / "evaluation.md").read_text()

    from aer_lightning.data.datamodule import RolloutDataModule

    def never(self):
        raise AssertionError("everything is in the cache")

    monkeypatch.setattr(RolloutDataModule, "collector", property(never))
    assert cli.run("validate", *options(overlay, tmp_path / "one", cache=cache))[0] == 0
    for file in ("evaluation.md", "completions.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
