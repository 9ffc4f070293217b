"""Pages about what a language model does on arithmetic: `docs/arithmetic/README.md`, and `docs/arithmetic/study.md`.

    python benchmarks/arithmetic.py runs/arithmetic/TIME [runs/arithmetic/RESUMED ...]
    python benchmarks/arithmetic.py --study runs/language_model

The first is for a run of `configs/arithmetic.yaml`; folders of a run that was resumed are given in order. The second is for the runs of
`configs/study/language_model.yaml`, finished or not. Samples are picked by rule, not by hand: of the first, the middle and the last
rollout, for every prompt its first two completions (in the study its first).
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from kernels_common import replace_section, table

from aer_lightning.data.rewards.countdown import evaluate
from aer_lightning.reporting.run_metrics import read_metrics
from aer_lightning.reporting.statistics import estimate
from aer_lightning.reporting.style import PALETTE, grid, png, style
from aer_lightning.reporting.tracking import moving_mean
from aer_lightning.study.plan import read_plan

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs/arithmetic"
LEVELS = ("one-digit sums", "two-digit sums", "two operations")
KS = (1, 8, 16)


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


def picked(rollouts: dict[int, list[dict[str, Any]]], each: int = 2) -> str:
    """The samples as Markdown, the first ``each`` of every prompt."""
    indices = list(rollouts)
    parts = []
    for index in dict.fromkeys((indices[0], indices[len(indices) // 2], indices[-1])):
        seen: dict[str, int] = {}
        lines = []
        for row in rollouts[index]:
            seen[row["id"]] = seen.get(row["id"], 0) + 1
            if seen[row["id"]] <= each:
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


def study_runs(root: Path) -> dict[str, list[Path]]:
    """Method -> folders of its seeds with a log, in the plan's order."""
    methods = read_plan(ROOT / "configs/study/language_model.yaml").methods
    return {m: found for m in methods if (found := sorted(f for f in root.glob(f"{m}/seed*") if (f / "metrics.csv").is_file()))}


def before_and_after(runs: dict[str, list[Path]]) -> str:
    """pass@k of held-out problems by level, mean over seeds, with the number of rollouts before the last evaluation."""
    rows = []
    for method, folders in runs.items():
        read = [read_metrics(folder) for folder in folders]
        read = [run for run in read if len(run.evaluations) > 1]
        for level in ("", *LEVELS):
            cells = []
            for k in KS:
                name = f"{level}/pass@{k}" if level else f"pass@{k}"
                ends = [(run.evaluations[0].sources["arithmetic"][name], run.evaluations[-1].sources["arithmetic"][name]) for run in read]
                first, last = (estimate([pair[i] for pair in ends]) for i in (0, 1))
                spread = f" ± {last.error:.2f}" if last.seeds > 1 else ""
                cells.append(f"{first.mean:.2f} → {last.mean:.2f}{spread}" if ends else "–")
            done = "/".join(str(run.evaluations[-1].rollouts) for run in read) or "0"
            rows.append([method if not level else "", level or "all", *cells, done if not level else ""])
    return table(["method", "problems", *(f"pass@{k}" for k in KS), "rollouts, by seed"], rows)


def control_table(runs: dict[str, list[Path]]) -> str:
    """Reward, entropy and what acted, every ten rollouts of every run."""
    rows = []
    for method, folders in runs.items():
        for folder in folders:
            run = read_metrics(folder)
            entropy, reward = run.column("rollout/entropy"), run.column("rollout/reward")
            active, alpha = run.column("aer/active_tokens"), run.column("aer/alpha")
            for end in range(10, len(run) + 1, 10):
                late = slice(end - 10, end)
                level = f"{np.mean(entropy[late]) / run.target:.2f}" if run.target == run.target else "–"
                shown = [f"{np.mean(values[late]):.{digits}f}" for values, digits in ((reward, 2), (entropy, 2), (alpha, 3), (active, 2))]
                rows.append([method, folder.name.removeprefix("seed"), f"{end - 9} to {end}", *shown[:2], level, *shown[2:]])
    return table(["method", "seed", "rollouts", "right", "entropy, nat", "H / H*", "alpha", "active share"], rows)


def draw_study(runs: dict[str, list[Path]], path: Path) -> None:
    """Reward and entropy of every run, one colour a method, and the target."""
    with style():
        figure, (left, right) = grid(2, 2, width=4.2, height=2.6)
        for i, (method, folders) in enumerate(runs.items()):
            for j, folder in enumerate(folders):
                run = read_metrics(folder)
                for axes, column in ((left, "rollout/reward"), (right, "rollout/entropy")):
                    axes.plot(run.index + 1, moving_mean(run.column(column), 5), color=PALETTE[i], label=method if j == 0 else None)
                if run.target == run.target:
                    right.axhline(run.target, color=PALETTE[i], linestyle=":", linewidth=1)
        left.set(title="share of right completions (mean of five)", xlabel="rollout", ylim=(0, None))
        right.set(title="entropy, nat a token; dotted: its target", xlabel="rollout", ylim=(0, None))
        left.legend(fontsize=7)
        path.write_bytes(png(figure, dpi=80))


def write_study(root: Path) -> None:
    """Fill ``docs/arithmetic/study.md`` from the runs that there are."""
    runs = study_runs(root)
    if not runs:
        raise SystemExit(f"error: {root}: no runs of configs/study/language_model.yaml; give the folder that the study's --runs named")
    draw_study(runs, OUT / "study.png")
    page = OUT / "study.md"
    replace_section(page, "passes", before_and_after(runs))
    replace_section(page, "control", f"![Reward and entropy of every run](study.png)\n\n{control_table(runs)}")
    texts = []
    for method, folders in runs.items():
        rollouts = read_rollouts(folders[:1])
        paid = [row for sampled in rollouts.values() for row in sampled if row["reward"] > 0]
        count = f"{len(paid)} of its completions were paid; {unwritten(paid)} of them do not write the value."
        texts.append(f"### {method}, {folders[0].name}\n\n{count}\n\n{picked(rollouts, each=1)}")
    replace_section(page, "samples", "\n\n".join(texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--study", type=Path, metavar="DIR", help="folder of the study's runs")
    options = parser.parse_args()
    if bool(options.folders) == bool(options.study):
        parser.error("give the folders of a run, or --study DIR")
    if options.study:
        write_study(options.study)
        return
    rollouts = read_rollouts(options.folders)
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
