"""What the kernel benchmarks share: the plain way, the machine's name, and the tables in README.md."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
Function = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The way of most trainers: logits, log_softmax, gather, and the entropy from both; fp32 after the product."""
    log_probability = torch.log_softmax((hidden @ weight.T).float(), -1)
    logprob = log_probability.gather(1, targets[:, None]).squeeze(1)
    return logprob, -(log_probability.exp() * log_probability).sum(-1)


def environment(machine: str) -> dict[str, Any]:
    """Name, versions and date: without them a number means nothing."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    try:
        import triton

        versions["triton"] = triton.__version__
    except ImportError:
        pass
    return {"machine": machine, "date": datetime.now(UTC).strftime("%Y-%m-%d"), "versions": versions}


def save(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def replace_section(readme: Path, name: str, text: str) -> None:
    """Put a table between the two markers of its section, which stand in the file already."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    content = readme.read_text()
    if begin not in content or end not in content:
        raise SystemExit(f"error: {readme} has no section {begin} ... {end}")
    readme.write_text(
        re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{text.strip()}\n{end}", content, flags=re.DOTALL)
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines)
