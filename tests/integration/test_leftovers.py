"""A trainer that is killed leaves nothing behind: no process, no file in the temporary folder, nothing in shared memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT


def descendants(pid):
    """Process ids below one, threads left out."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)
    return condition()


@pytest.mark.slow
def test_nothing_survives_a_killed_trainer(small, random_model, tmp_path):
    data, overlay, scratch = tmp_path / "problems.jsonl", tmp_path / "overlay.yaml", tmp_path / "scratch"
    scratch.mkdir()
    rows = [{"id": str(i), "problem": f"{i} {i + 1}=", "answer": str(i)} for i in range(8)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = {"class_path": "aer_lightning.data.prompts.JsonlPrompts", "init_args": {"path": str(data), "template": "{problem}:"}}
    overlay.write_text(json.dumps({"data": {"init_args": {"prompts": prompts, "evaluation": []}}}))
    shared = set(os.listdir("/dev/shm"))
    options = small(random_model, tmp_path / "run", epochs=1000)
    command = [sys.executable, "-m", "aer_lightning", "fit", "-c", "configs/aer.yaml", "-c", str(overlay), *options]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TMPDIR": str(scratch)}, stdout=subprocess.DEVNULL) as trainer:
        try:
            metrics = tmp_path / "run" / "metrics.csv"
            assert wait_until(lambda: metrics.exists() or trainer.poll() is not None, 180) and trainer.poll() is None
            below = descendants(trainer.pid)
        finally:
            trainer.send_signal(signal.SIGKILL)
    assert below, "the verifier's workers are processes of their own"
    assert wait_until(lambda: not any(map(alive, below)), 30)
    assert wait_until(lambda: not list(scratch.iterdir()), 10), list(scratch.iterdir())
    assert set(os.listdir("/dev/shm")) <= shared
