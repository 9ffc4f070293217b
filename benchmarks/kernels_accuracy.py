"""Errors of the token statistics against fp64 on a CPU: ours, plain torch and the reference paths of public trainers.

    pip install --no-deps --target PEERS trl==1.16.0 verl==0.9.1 cut-cross-entropy==25.1.1 liger-kernel==0.8.5
    python benchmarks/kernels_accuracy.py --peers PEERS

Each takes hidden states [64, 64] and a head [4096, 64] in bf16 and does what it does with them (or takes logits, in the dtype in which its
trainer hands them over); the reference is fp64 on the same bf16 inputs. Largest absolute error of log-probability and entropy in nat, and
relative error (Frobenius) of the gradients of hidden states and head. A peer that is not installed or fails says so in its row. Writes
results/kernels-accuracy.json and the table in README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kernels_common import FOLDER, RESULTS, environment, plain, replace_section, save, table
from torch import Tensor

from aer_lightning.kernels import linear_token_stats, reference

Statistics = Callable[[Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor | None]]
ROWS, WIDTH, VOCABULARY = 64, 64, 4096


def cases() -> dict[str, tuple[Tensor, Tensor, Tensor, float]]:
    """Hidden states, head, targets and the scale of the upstream gradients."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator) * 2 / WIDTH**0.5
    targets = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    offset = (torch.cat((hidden[:, 1:], torch.full((ROWS, 1), 3008.0)), 1), torch.cat((weight[:, 1:], torch.ones(VOCABULARY, 1)), 1))
    peaked = weight.clone()
    peaked[targets] = hidden * 18 / hidden.square().sum(1, keepdim=True).sqrt() / 2
    masked = weight.clone()
    masked[VOCABULARY // 2 :] = 0
    masked[VOCABULARY // 2 :, 0] = -3e38
    positive = hidden.clone()
    positive[:, 0] = positive[:, 0].abs() * 10 + 10
    return {
        "plain": (hidden, weight, targets, 1.0),
        "logits + 3008": (*offset, targets, 1.0),
        "peaked": (hidden, peaked, targets, 1.0),
        "half of the vocabulary at -inf": (positive, masked, targets % (VOCABULARY // 2), 1.0),
        "gradients of 1e-7": (hidden, weight, targets, 1e-7),
    }


def contenders() -> dict[str, Callable[[], Statistics]]:
    """Each is imported when it is asked for."""

    def fp32(hidden: Tensor, weight: Tensor, targets: Tensor) -> Any:
        return plain(hidden.float(), weight.float(), targets)

    def verl_fused() -> Statistics:
        return _file("verl/utils/experimental/torch_functional.py").FusedLinearForPPO().forward

    def verl_logits() -> Statistics:
        def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> Any:
            logits = hidden @ weight.T
            entropy = torch.logsumexp(logits, -1) - (logits.softmax(-1) * logits).sum(-1)
            return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0], entropy

        return run

    def trl(upcast: bool) -> Callable[[], Statistics]:
        def make() -> Statistics:
            from trl.trainer.utils import entropy_from_logits, selective_log_softmax

            def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> Any:
                logits = (hidden @ weight.T).float() if upcast else hidden @ weight.T
                return selective_log_softmax(logits[None], targets[None])[0], entropy_from_logits(logits)

            return run

        return make

    def liger_scaled() -> Statistics:
        function = _file("liger_kernel/ops/fused_linear_scaled_cross_entropy.py").LigerFusedLinearScaledCrossEntropyFunction

        def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> Any:
            loss, entropy = function.apply(hidden, weight, targets, 1.0, -100, 1, True)
            return -loss, entropy

        return run

    def torch_fused() -> Statistics:
        function: Any = torch.nn.functional.linear_cross_entropy  # type: ignore[attr-defined]
        return lambda h, w, t: (-function(h, w, t, reduction="none"), None)

    def cce() -> Statistics:
        from cut_cross_entropy import linear_cross_entropy

        return lambda h, w, t: (-linear_cross_entropy(h, w, t, reduction="none", impl="torch_compile"), None)

    return {
        "ours": lambda: lambda h, w, t: linear_token_stats(h, w, t, backend="torch"),  # type: ignore[return-value]
        "plain torch, fp32 products": lambda: fp32,
        "plain torch, fp32 after a bf16 product": lambda: plain,
        "verl FusedLinearForPPO": verl_fused,
        "logsumexp - E[z] on bf16 logits (as verl's entropy_from_logits)": verl_logits,
        "TRL, bf16 logits": trl(False),
        "TRL, logits.float()": trl(True),
        "liger-kernel, scaled, torch chunks": liger_scaled,
        "torch F.linear_cross_entropy": torch_fused,
        "cut-cross-entropy, torch path": cce,
    }


def _file(path: str) -> Any:
    """Load one file of a package that cannot be imported as a whole without a GPU."""
    found = next((Path(folder) / path for folder in sys.path if (Path(folder) / path).is_file()), None)
    if found is None:
        raise ImportError(f"{path} is not installed")
    spec = importlib.util.spec_from_file_location(found.stem, found)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def errors(function: Statistics, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> list[float | None]:
    """Of log-probability, entropy, dX and dW; None where a contender has no entropy (the gradient is that of the log-probability then)."""
    leaves = [value.bfloat16().requires_grad_() for value in (hidden, weight)]
    exact = [value.detach().double().requires_grad_() for value in leaves]
    ours, wanted = function(*leaves, targets), reference.linear_token_stats(*exact, targets)[:2]
    pairs = [(value, right) for value, right in zip(ours, wanted, strict=True) if value is not None]
    found: list[float | None] = [
        None if value is None else float((value.detach().double() - right.detach()).abs().max())
        for value, right in zip(ours, wanted, strict=True)
    ]
    upstream = scale * torch.linspace(0.5, 1.5, ROWS)
    gradients = torch.autograd.grad([value for value, _ in pairs], leaves, [upstream.to(value) for value, _ in pairs])
    exact_gradients = torch.autograd.grad([right for _, right in pairs], exact, [upstream.double()] * len(pairs))
    return found + [float((a.double() - b).norm() / b.norm()) for a, b in zip(gradients, exact_gradients, strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", type=Path, help="folder that the peers were installed to")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where README.md and results/ are")
    arguments = parser.parse_args()
    if arguments.peers is not None:
        sys.path.append(str(arguments.peers))
    problems, entries, rows = cases(), [], []
    for name, make in contenders().items():
        for case, problem in problems.items():
            entry: dict[str, Any] = {"contender": name, "case": case}
            try:
                entry["errors"] = errors(make(), *problem)
                cells = ["-" if value is None else f"{value:.0e}" for value in entry["errors"]]
            except Exception as error:  # a peer may fail in ways of its own; its row says it
                entry["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:90]
                cells = [entry["failed"], "", "", ""]
            entries.append(entry)
            rows.append([case, name, *cells])
            print(*rows[-1], sep="  ", flush=True)
            if "failed" in entry and "Import" in entry["failed"]:
                break
    result = environment("CPU") | {"shape": [ROWS, WIDTH, VOCABULARY], "dtype": "bfloat16", "entries": entries}
    save(result, arguments.folder / RESULTS.name / "kernels-accuracy.json")
    rows.sort(key=lambda row: list(problems).index(row[0]))
    versions = ", ".join(f"{key} {value}" for key, value in result["versions"].items())
    text = f"bf16 inputs, {ROWS} x {WIDTH} x {VOCABULARY}, {versions}, {result['date']} (`results/kernels-accuracy.json`)\n\n"
    header = ["case", "contender", "log-probability, nat", "entropy, nat", "dX", "dW"]
    replace_section(arguments.folder / "README.md", "kernels-accuracy", text + table(header, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
