"""Runs of the command line in this process and in others."""

from __future__ import annotations

import csv
import functools
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from aer_lightning.data.engines import TransformersEngine

ROOT = Path(__file__).parents[2]
ENGINE = "TransformersEngine"


def small(model, run_dir, *, epochs=1):
    """Options that make configs/aer.yaml a run of seconds on a random model."""
    values = {
        "run_dir": run_dir,
        "trainer.max_epochs": epochs,
        "trainer.accelerator": "cpu",
        "model.init_args.pretrained": model,
        "data.init_args.engine": ENGINE,
        "data.init_args.prompts_per_rollout": 4,
        "data.init_args.responses_per_prompt": 4,
        "data.init_args.tokens_per_micro_batch": 256,
        "data.init_args.rollouts_per_epoch": 2,
        "data.init_args.max_new_tokens": 8,
        "data.init_args.eval_samples": 2,
        "data.init_args.eval_ks": "[1, 2]",
        "data.init_args.eval_batch_prompts": 8,
    }
    return [f"--{key}={value}" for key, value in values.items()]


class CommandLine:
    """``run`` in this process, ``spawn`` in another; both give (status, stdout, stderr)."""

    def __init__(self, capfd, monkeypatch):
        self.capfd = capfd
        monkeypatch.chdir(ROOT)
        # Lightning's log handler keeps the stream of the test that imported it first, which is closed by now.
        monkeypatch.setattr(logging, "raiseExceptions", False)
        monkeypatch.setattr(sys, "argv", sys.argv[:1])
        monkeypatch.delenv("AER_LIGHTNING_RUN_DIR", raising=False)

    def run(self, *args):
        from aer_lightning.__main__ import main

        self.capfd.readouterr()
        try:
            status = main([str(a) for a in args])
        except SystemExit as stop:
            status = stop.code or 0
        out, err = self.capfd.readouterr()
        return status, out, err

    def spawn(self, *args, timeout=240, **kwargs):
        command = [sys.executable, "-m", "aer_lightning", *map(str, args)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, **kwargs)
        return done.returncode, done.stdout, done.stderr

    def refused(self, *args):
        """The one error line of a command that must be refused."""
        status, out, err = self.run(*args)
        assert status == 2, (status, out, err)
        assert "Traceback" not in out + err
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, err
        return lines[0].removeprefix("error: ")


@pytest.fixture
def cli(capfd, monkeypatch):
    return CommandLine(capfd, monkeypatch)


def read_metrics(run_dir):
    """Rows of metrics.csv that belong to a rollout, numbers where there are any."""
    with open(Path(run_dir) / "metrics.csv") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    return [row for row in rows if "rollout/index" in row]


@pytest.fixture(name="read_metrics")
def read_metrics_fixture():
    return read_metrics


@pytest.fixture(name="small")
def small_fixture():
    return small


@pytest.fixture
def before_loading(monkeypatch):
    """Fails the test if a model is loaded or an engine started: bad options are refused before."""

    def never(*_, **__):
        raise AssertionError("a model or an engine was loaded before the mistake was found")

    monkeypatch.setattr("aer_lightning.modules.policy.load_network", never)
    # The parser compares signatures with the protocol's.
    monkeypatch.setattr(TransformersEngine, "start", functools.wraps(TransformersEngine.start)(never))
