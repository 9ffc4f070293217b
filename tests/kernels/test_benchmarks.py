"""The GPU benchmark's script on the CPU: it runs, it measures errors, it writes result and table, and failures stand in their row."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kernels_gpu

    yield kernels_gpu
    for name in ("kernels_gpu", "kernels_common", "kernels_peers"):
        sys.modules.pop(name, None)


def test_benchmark_writes_result_and_table(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments):
        raise ValueError("a peer's own trouble")

    monkeypatch.setattr(script, "peers", lambda: [script.Contender("broken peer", broken)])
    monkeypatch.setattr(script.torch, "compile", lambda function: function)
    (tmp_path / "README.md").write_text("before\n<!-- kernels-gpu -->\nold\n<!-- /kernels-gpu -->\nafter\n")
    code = script.main(["--device", "cpu", "--machine", "My CPU", "--shape", "64x16x2000", "--repeats", "1", "--folder", str(tmp_path)])
    assert code == 0
    result = json.loads((tmp_path / "results" / "kernels-my-cpu.json").read_text())
    by_name = {entry["contender"]: entry for entry in result["entries"]}
    assert by_name["broken peer"]["failed"] == "ValueError: a peer's own trouble"
    strict = by_name["ours, torch, strict, 1024 MiB"]
    assert strict["error"]["logprob"] < 1e-5 and strict["error"]["grad_weight"] < 3e-3 and strict["both_ms"] > 0
    # 8 NDV operations at the measured rate
    assert strict["limit_ms"] == pytest.approx(8 * 64 * 16 * 2000 / result["rates"]["matmul_tflops"] / 1e9)
    assert by_name["plain torch, fp32 log_softmax"]["error"]["logprob"] > strict["error"]["logprob"]  # bf16 logits
    readme = (tmp_path / "README.md").read_text()
    assert (
        "old" not in readme
        and readme.startswith("before\n")
        and readme.endswith("after\n")
        and "| ours, torch, strict, 1024 MiB |" in readme.replace("64 x 16 x 2000 ", "")
    )


def test_needs_a_gpu(script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(script.torch.cuda, "is_available", lambda: False)
    assert script.main([]) == 2
    assert capsys.readouterr().out.startswith("error: needs a CUDA device")
