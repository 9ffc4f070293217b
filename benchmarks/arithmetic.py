"""Curve and samples of a run of `configs/arithmetic.yaml` for `docs/arithmetic/README.md`.

    python benchmarks/arithmetic.py runs/arithmetic/TIME [runs/arithmetic/RESUMED ...]

Folders of a run that was resumed are given in order. Samples are picked by rule, not by hand: of the first, the middle and the last
rollout, for every prompt its first two completions.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from kernels_common import replace_section, table

from aer_lightning.data.rewards.countdown import evaluate

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs/arithmetic"


def read_rollouts(folders: list[Path]) -> dict[int, list[dict[str, Any]]]:
    """Rollout -> its samples, in the order of the rollout; what a resumed run drew again replaces what was drawn before."""
    rollouts: dict[int, list[dict[str, Any]]] = {}
    for folder in folders:
        rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        for index in sorted({row["rollout"] for row in rows}):
            rollouts[index] = [row for row in rows if row["rollout"] == index]
    return dict(sorted(rollouts.items()))


def share(rows: list[dict[str, Any]], label: str | None = None) -> float:
    """Share of right completions."""
    rewards = [row["reward"] for row in rows if label in (None, row["label"])]
    return sum(rewards) / len(rewards)


def entropy(rows: list[dict[str, Any]]) -> float:
    """Mean over tokens, nat."""
    return sum(row["entropy"] * row["tokens"] for row in rows) / sum(row["tokens"] for row in rows)


def unwritten(rows: list[dict[str, Any]]) -> int:
    """How many paid completions do not write the value of their prompt's expression: what was paid by mistake."""
    missing = 0
    for row in rows:
        expression = re.search(r"\d[\d+*\- ]*", row["prompt"])
        if row["reward"] and expression is not None:
            _, value = evaluate(expression.group().strip())
            missing += re.search(rf"(?<!\d){value}(?!\d)", row["completion"]) is None
    return missing


def picked(rollouts: dict[int, list[dict[str, Any]]]) -> str:
    """The samples as Markdown."""
    indices = list(rollouts)
    parts = []
    for index in dict.fromkeys((indices[0], indices[len(indices) // 2], indices[-1])):
        seen: dict[str, int] = {}
        lines = []
        for row in rollouts[index]:
            seen[row["id"]] = seen.get(row["id"], 0) + 1
            if seen[row["id"]] <= 2:
                text = row["completion"].replace("|", "\\|").replace("`", "'").replace("\n", "⏎")
                lines.append([row["prompt"], f"`{text}`" if text.strip() else "(nothing)", "1" if row["reward"] else "0"])
        head = f"**Rollout {index}**: {share(rollouts[index]):.2f} right, {entropy(rollouts[index]):.2f} nat a token"
        parts.append(f"{head}\n\n{table(['prompt', 'completion', 'paid'], lines)}")
    return "\n\n".join(parts)


def draw(rollouts: dict[int, list[dict[str, Any]]], path: Path) -> None:
    """Reward by level, and entropy, over rollouts."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    for label in sorted({row["label"] for rows in rollouts.values() for row in rows}):
        left.plot(list(rollouts), [share(rows, label) for rows in rollouts.values()], marker=".", label=label)
    left.plot(list(rollouts), [share(rows) for rows in rollouts.values()], color="black", label="all")
    left.set(xlabel="rollout", title="share of right completions", ylim=(0, None))
    left.legend(fontsize=7)
    right.plot(list(rollouts), [entropy(rows) for rows in rollouts.values()], color="tab:green")
    right.set(xlabel="rollout", title="entropy, nat a token", ylim=(0, None))
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    rollouts = read_rollouts(parser.parse_args().folders)
    draw(rollouts, OUT / "curve.png")
    replace_section(OUT / "README.md", "samples", picked(rollouts))
    rows = [
        [str(i), f"{share(r):.2f}", *(f"{share(r, x):.2f}" for x in ("one-digit sums", "two-digit sums")), f"{entropy(r):.2f}"]
        for i, r in rollouts.items()
        if i % 5 == 0 or i == max(rollouts)
    ]
    paid = [row for sampled in rollouts.values() for row in sampled if row["reward"]]
    line = f"Of {len(paid)} paid completions of {len(rollouts)} rollouts, {unwritten(paid)} do not write the sum."
    figures = table(["rollout", "right", "one-digit sums", "two-digit sums", "entropy, nat"], rows)
    replace_section(OUT / "README.md", "figures", f"{figures}\n\n{line}")


if __name__ == "__main__":
    main()
