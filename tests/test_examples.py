"""The examples: each part is short and runs, with the command line and with plain Lightning; the notebook runs from top to bottom."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aer_lightning.reporting.run_metrics import read_metrics

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_each_is_twenty_lines_or_less(path):
    assert len(path.read_text().splitlines()) <= 20


def test_all_parts_in_one_run(tmp_path):
    sizes = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--data.init_args.rollouts_per_epoch=2", "--export.enabled=false"]
    options = ["--data.init_args.prompts_per_rollout=4", "--data.init_args.eval_samples=2", "--data.init_args.eval_ks=[1, 2]"]
    command = [sys.executable, "-m", "aer_lightning", "fit", "-c", "configs/aer.yaml", "-c", "examples/own_parts.yaml"]
    command += [*sizes, *options, f"--run_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metrics = read_metrics(tmp_path / "run")
    assert len(metrics) == 2 and "sums" in metrics.sources()
    assert {round(a, 6) for a in metrics.column("aer/alpha")} <= {0.03, 0.04, 0.05, 0.06, 0.07}, "steps of the dead band"
    assert metrics.column("train/surprisal")[0] > 0, "the objective's own metric"


@pytest.mark.slow
def test_plain_lightning(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / "train.py"), str(tmp_path / "run")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"metrics.csv", "curves.png", "summary.json", "samples.jsonl", "evaluation.jsonl", "model"} <= files
    assert len(read_metrics(tmp_path / "run")) == 10


@pytest.mark.slow
def test_notebook(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / "aer.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "outputs are not kept in the repository"
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "image/png" in printed and "H*" in printed
