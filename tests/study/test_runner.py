"""Running, with a launcher that trains nothing."""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from aer_lightning.errors import ConfigError
from aer_lightning.study.configuration import read_yaml
from aer_lightning.study.plan import Run
from aer_lightning.study.runner import Processes, check_finished, finished, run_all


def fake_run(name="a", **config):
    return Run(name, "seed1", Path(name, "seed1"), {"name": name, **config}, rollouts=4)


class FakeLaunch:
    """Writes what a run leaves; stops half-way through a run of a name in ``stop``."""

    def __init__(self, stop=()):
        self.stop, self.commands, self.lock = set(stop), [], threading.Lock()

    def __call__(self, arguments, log):
        folder = Path(arguments[arguments.index("--run_dir") + 1])
        name = read_yaml(arguments[arguments.index("-c") + 1])["name"]
        with self.lock:
            self.commands.append(list(arguments))
        assert arguments[-2:] == ["--resume", "auto"]
        (folder / "checkpoints" / "step-00000001.ckpt").mkdir(parents=True, exist_ok=True)
        if name in self.stop:
            log.write_text("something\nerror: it was stopped\n")
            return 1
        (folder / "summary.json").write_text("{}")
        return 0


def test_finished_runs_are_left_alone(tmp_path):
    launch, runs, said = FakeLaunch(), [fake_run("a"), fake_run("b")], []
    assert run_all(runs[:1], tmp_path, 1, launch, lambda r: 60.0) == []
    assert run_all(runs, tmp_path, 2, launch, lambda r: 60.0, said.append) == []
    assert len(launch.commands) == 2 and "1 of 2 runs are finished already" in said[0] and said[-1].startswith("[2/2] b seed1 finished")
    assert not (tmp_path / "a" / "seed1" / "checkpoints").exists(), "a finished run needs no checkpoint"


def test_what_two_methods_share_is_run_once(tmp_path):
    launch, said = FakeLaunch(), []
    runs = [fake_run("a"), replace(fake_run("b"), folder=Path("a", "seed1")), fake_run("c")]
    assert run_all(runs, tmp_path, 1, launch, lambda r: 60.0, said.append) == []
    assert [line.split()[1] for line in said] == ["a", "c"] and len(launch.commands) == 2


def test_an_interrupted_run_goes_on(tmp_path):
    run, folder = fake_run(), tmp_path / "a" / "seed1"
    stopped = FakeLaunch(stop=["a"])
    (failure,) = run_all([run], tmp_path, 1, stopped, lambda r: 1.0, lambda _: None)
    assert failure == "a seed1: it was stopped" and not finished(folder)
    assert (folder / "checkpoints").exists(), "the checkpoint of an unfinished run stays"
    launch = FakeLaunch()
    assert run_all([run], tmp_path, 1, launch, lambda r: 1.0, lambda _: None) == []
    assert launch.commands == stopped.commands, "the same command goes on"
    assert finished(folder) and not (folder / "checkpoints").exists()


def test_an_unfinished_run_of_another_plan_is_refused(tmp_path):
    run_all([fake_run()], tmp_path, 1, FakeLaunch(stop=["a"]), lambda r: 1.0, lambda _: None)
    with pytest.raises(ConfigError, match="another plan"):
        check_finished([fake_run(rate=1.0)], tmp_path)


def test_runs_of_another_plan_are_not_counted(tmp_path):
    run = fake_run(rate=5e-5)
    run_all([run], tmp_path, 1, FakeLaunch(), lambda r: 1.0, lambda _: None)
    check_finished([run], tmp_path)
    with pytest.raises(ConfigError, match=r"another plan.*--runs"):
        check_finished([replace(run, config={"name": "a", "rate": 6e-5})], tmp_path)


def test_one_failure_does_not_stop_the_others(tmp_path):
    launch = FakeLaunch(stop=["a"])
    failures = run_all([fake_run(n) for n in "abc"], tmp_path, 2, launch, lambda r: 1.0, lambda _: None)
    assert len(failures) == 1 and finished(tmp_path / "b" / "seed1") and finished(tmp_path / "c" / "seed1")


def test_a_process_has_one_core_and_can_be_stopped(tmp_path, monkeypatch):
    log = tmp_path / "log"
    processes = Processes()
    assert processes(["--version"], log) == 0 and log.read_text().startswith("aer_lightning ")
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "$OMP_NUM_THREADS $*"\nexec sleep 60\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    status = []
    thread = threading.Thread(target=lambda: status.append(processes(["fit"], log)))
    thread.start()
    while not log.read_text().strip().endswith("fit"):
        thread.join(0.02)
    processes.stop()
    thread.join(20)
    assert log.read_text() == "1 -m aer_lightning fit\n" and status == [-signal.SIGTERM]
    assert processes(["fit"], log) == 130, "none starts after that"
