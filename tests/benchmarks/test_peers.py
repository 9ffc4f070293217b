"""How `benchmarks/peers.py` counts; the contestants themselves run when the command does."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


class Ticking:
    """A clock that a test moves."""

    def __init__(self, monkeypatch, module):
        self.now = 0.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

    def work(self, seconds):
        self.now += seconds


def test_phases_are_exclusive_and_add_up_to_the_step(bench, monkeypatch):
    run = bench("peers_run")
    ticking = Ticking(monkeypatch, run)
    clock = run.Clock(cpu_time=False)

    class Trainer:
        def step(self):
            ticking.work(1)
            self.collect()
            self.collect()
            ticking.work(2)

        def collect(self):
            ticking.work(4)
            self.generate()

        def generate(self):
            ticking.work(8)
            return "completions"

    trainer = Trainer()
    for name, phase in (("step", "forward and backward"), ("collect", "score"), ("generate", "generate")):
        clock.wrap(trainer, name, phase)
    trainer.step()
    ticking.work(16)
    clock.step()
    assert trainer.generate() == "completions"
    clock.step()
    first = {"seconds": 43.0, "forward and backward": 3.0, "score": 8.0, "generate": 16.0, "rest": 16.0}
    assert clock.steps == [first, {"seconds": 8.0, "generate": 8.0, "rest": 0.0}]


def test_the_time_until_an_item_is_the_iterators(bench, monkeypatch):
    run = bench("peers_run")
    ticking = Ticking(monkeypatch, run)
    clock = run.Clock(cpu_time=False)

    class Engine:
        def stream(self, count):
            for item in range(count):
                ticking.work(2)
                yield item

    engine = Engine()
    clock.wrap_items(engine, "stream", "generate")
    got = []
    for item in engine.stream(3):
        ticking.work(5)
        got.append(item)
    clock.step()
    assert got == [0, 1, 2] and clock.steps == [{"seconds": 21.0, "generate": 6.0, "rest": 15.0}]


def test_ratios_are_medians_over_rounds_of_steps_that_count(bench):
    peers = bench("peers")

    def steps(seconds):
        return [{"seconds": 100.0}, *({"seconds": seconds, "generate": seconds / 4} for _ in range(4))]

    rounds = {"TRL": [steps(2.0), steps(4.0), steps(3.0)], "VLLMEngine": [steps(1.0), steps(2.0), steps(3.0)]}
    result = peers.summary(rounds, completions=240, skip=1)
    assert result["TRL"]["completions_per_second"] == 80.0 and result["TRL"]["times_trl"] == 1.0
    assert result["VLLMEngine"]["times_trl_per_round"] == [2.0, 2.0, 1.0] and result["VLLMEngine"]["times_trl"] == 2.0
    assert result["VLLMEngine"]["phases"]["generate"] == 0.5 and result["VLLMEngine"]["seconds"]["p50"] == 2.0


def test_the_load_is_that_of_the_default_run(bench):
    from argparse import Namespace

    peers = bench("peers")
    load = peers.load_of(Namespace(steps=2, threads=1, cpu_time=False))
    assert (load["prompts_per_rollout"], load["responses"], load["max_new_tokens"], load["lr"]) == (30, 8, 26, 5e-5)
    assert len(load["prompts"]) == 60 and Path(load["model"], "config.json").is_file()
    json.dumps(load)


def test_the_table_names_machine_versions_and_bars(bench):
    peers = bench("peers")
    contestants = peers.summary({name: [[{"seconds": 1.0}]] for name in peers.CONTESTANTS}, completions=240, skip=0)
    result = {
        "environment": {"machine": "a machine", "versions": {"torch": "1.2"}, "date": "today"},
        "load": {"threads": 2, "steps": 40},
        "rounds": 3,
        "file": "peers.json",
        "contestants": contestants,
    }
    text = peers.report(result)
    assert re.search(r"a machine, 2 thread\(s\), torch 1\.2, TRL \d", text)
    assert "| bar |  | 2.0 | 1.2 |" in text and "| completions/s | 240 | 240 | 240 |" in text
    readme = (ROOT / "benchmarks/README.md").read_text()
    assert "<!-- peers -->" in readme and "<!-- /peers -->" in readme


def test_other_versions_make_the_environment_anew(bench, monkeypatch, tmp_path):
    peers = bench("peers")
    commands = []
    monkeypatch.setattr(peers.subprocess, "run", lambda command, check: commands.append(command) or (tmp_path / "e").mkdir(exist_ok=True))
    assert peers.trl_environment(tmp_path / "e") == tmp_path / "e/bin/python"
    assert commands[0] == [sys.executable, "-m", "venv", "--clear", str(tmp_path / "e")]
    assert f"trl=={peers.TRL_VERSION}" in commands[-1] and commands[1][-1].startswith("torch==")
    peers.trl_environment(tmp_path / "e")
    assert len(commands) == 3, "made once"
    monkeypatch.setattr(peers, "TRL_VERSION", "9.9")
    peers.trl_environment(tmp_path / "e")
    assert len(commands) == 6
