"""The GPU benchmark's script on the CPU: it runs, it measures errors, it writes result and table, and failures stand in their row."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch

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


class FakeLiger:
    """The signature of liger_kernel.ops.LigerFusedLinearScaledCrossEntropyFunction."""

    @staticmethod
    def apply(
        _input, weight, target, temperature=1.0, ignore_index=-100, m_tiles_per_cluster=1, return_entropy=False
    ):  # fmt: skip
        assert (temperature, ignore_index, m_tiles_per_cluster, return_entropy) == (1.0, -100, 1, True)
        logprob = torch.log_softmax((_input @ weight.T).float(), -1)
        return -logprob.gather(1, target[:, None])[:, 0], -(logprob.exp() * logprob).sum(1)


class FakePrimeHead(torch.nn.Linear):
    """The signature of prime_rl.trainer.models.layers.lm_head.FusedOutputLinear."""

    def __init__(self, in_features, out_features, chunk_size):
        super().__init__(in_features, out_features, bias=False)

    def forward(self, hidden_states, labels=None, temperature=None):
        assert hidden_states.ndim == 3 and labels.shape == temperature.shape == hidden_states.shape[:2]
        logprob = torch.log_softmax(super().forward(hidden_states).float() / temperature[..., None], -1)
        return {"logprobs": logprob.gather(2, labels[..., None])[..., 0]}


def test_peers_are_called_as_they_ask_and_named_where_absent(script, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    import kernels_peers

    for name in ("cut_cross_entropy", "verl", "quack", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    fakes = {
        "liger_kernel.ops": {"LigerFusedLinearScaledCrossEntropyFunction": FakeLiger},
        "prime_rl.trainer.models.layers.lm_head": {"FusedOutputLinear": FakePrimeHead},
    }
    for path, members in fakes.items():
        parts = path.split(".")
        for number in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:number]), types.ModuleType(".".join(parts[:number])))
        vars(sys.modules[path]).update(members)
    found = {contender.name: contender for contender in kernels_peers.peers()}
    missing = capsys.readouterr().out
    assert all(f"{name}: left out" in missing for name in ("cut_cross_entropy", "liger", "verl", "quack"))
    data = script.inputs((6, 16, 200), "cpu")
    wanted = script.plain(*data)
    liger = found["liger-kernel, scaled with entropy, torch chunks"]
    for ours, theirs in zip(liger.function(*data), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    prime = found["prime-rl, fused head, logprob differentiated"]
    torch.testing.assert_close(prime.function(*data)[0], wanted[0])
    gradients = torch.autograd.grad(script.loss_of(prime.function(*data)), data[:2])
    assert all(gradient.any() for gradient in gradients)


def test_needs_a_gpu(script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(script.torch.cuda, "is_available", lambda: False)
    assert script.main([]) == 2
    assert capsys.readouterr().out.startswith("error: needs a CUDA device")
