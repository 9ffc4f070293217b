"""The command for a machine with a GPU, on one without: it says so, lists its paths, and its bookkeeping holds."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

SPEC = importlib.util.spec_from_file_location("gpu_check", Path(__file__).parents[2] / "benchmarks" / "gpu_check.py")
gpu_check = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = gpu_check
SPEC.loader.exec_module(gpu_check)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("part", [None, 3])
def test_without_a_gpu_it_lists_what_it_would_run(capsys, part):
    assert gpu_check.main([] if part is None else ["--part", str(part)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("no NVIDIA GPU here") and "vLLM" in out and ("kernels" in out) == (part is None)


def test_each_path_passes_or_fails_in_one_file(capsys, monkeypatch, tmp_path):
    def wrong():
        raise AssertionError("two is not three")

    paths = [gpu_check.Check(1, "right", "a", lambda: {"x": 1}), gpu_check.Check(2, "wrong", "b", wrong)]
    monkeypatch.setattr(gpu_check, "PATHS", paths)
    monkeypatch.setattr(gpu_check, "device", lambda: "a card")
    results = tmp_path / "r.json"
    assert gpu_check.main(["--part", "1", "--results", str(results)]) == 0
    assert gpu_check.main(["--part", "2", "--results", str(results)]) == 1
    out = capsys.readouterr().out
    assert "pass  right" in out and "FAIL  wrong" in out
    kept = json.loads(results.read_text())
    assert kept["paths"]["right"]["figures"] == {"x": 1} and "two is not three" in kept["paths"]["wrong"]["why"]
    assert kept["device"] == "a card", "parts add up in one file"


def test_the_paths_cover_what_needs_a_gpu():
    names = " ".join(p.name for p in gpu_check.PATHS)
    for word in ("kernels", "transformers", "vLLM", "stale", "resume", "memory", "benchmark", "FSDP2", "offload"):
        assert word in names
