"""Our verifier beside math-verify alone and an exact-match baseline, on labelled answers; and its throughput.

    python benchmarks/verifier.py [--data ../shared/data] [--out benchmarks/results/verifier.json]

Right and wrong payments are counted apart, because they are not worth the same: a right answer that is not paid costs a little signal,
a wrong one that is paid is what the model will learn.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from aer_lightning.data.rewards import MathGrader, Verifier, outcome_counts
from aer_lightning.data.rewards.extract import last_boxes

FILES = {
    "unit cases without policy": ("verifier_cases.jsonl", lambda row: not row.get("policy")),
    "peers' suites without policy": ("verifier_peer_suites.jsonl", lambda row: not row.get("policy")),
    "outputs of models": ("verifier_llm_outputs.jsonl", lambda row: True),
    "adversarial": ("verifier_adversarial.jsonl", lambda row: True),
}
BOMB = r"\boxed{(x+y+z+w+1)^{600}}"


def load(folder: Path, name: str, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / name).open()]
    for row in rows:  # a bare answer is what a model would have put into its box
        if row.get("style") == "answer":
            row["prediction"] = rf"\boxed{{{row['prediction']}}}"
    return [row for row in rows if keep(row)]


def math_verify_reward(pair: tuple[str, str]) -> tuple[float, float]:
    """math-verify alone, with its own 5 s limits: the gold answer stripped of dollar signs and boxed."""
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    prediction, gold = pair
    start = time.perf_counter()
    wrapped = gold if "\\boxed" in gold else rf"\boxed{{{gold.strip().strip('$')}}}"
    try:
        right = verify(parse(wrapped), parse(prediction))
    except Exception:  # what it raises on hostile text is a "no" here
        right = False
    return float(bool(right)), (time.perf_counter() - start) * 1000


def exact_reward(pair: tuple[str, str]) -> tuple[float, float]:
    """The last box, or else the last number, as characters."""
    prediction, gold = pair
    start = time.perf_counter()
    box = last_boxes(prediction)
    numbers = re.findall(r"-?\d[\d,.]*\d|-?\d", prediction)
    answer = box.parts[-1] if box else numbers[-1] if numbers else ""

    def squash(text: str) -> str:
        return re.sub(r"\s|\$", "", text)

    return float(bool(answer) and squash(answer) == squash(gold)), (time.perf_counter() - start) * 1000


def measure(rows: list[dict[str, Any]], rewards: list[float], ms: list[float]) -> dict[str, Any]:
    expected = [float(row["expected"]) for row in rows]
    right = sum(r == e for r, e in zip(rewards, expected, strict=True))
    ordered = sorted(ms)
    return {
        "rows": len(rows),
        "right": round(right / len(rows), 4),
        "paid_wrongly": sum(r > e for r, e in zip(rewards, expected, strict=True)),
        "not_paid": sum(r < e for r, e in zip(rewards, expected, strict=True)),
        "mean_ms": round(sum(ms) / len(ms), 2),
        "p95_ms": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
        "max_ms": round(ordered[-1], 1),
        "misjudged": [row["id"] for row, r, e in zip(rows, rewards, expected, strict=True) if r != e],
    }


def run_table(folder: Path, graders: dict[str, Verifier]) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for title, (name, keep) in FILES.items():
        rows = load(folder, name, keep)
        pairs = [(row["prediction"], row["gold"]) for row in rows]
        table[title] = {}
        for grader, verifier in graders.items():
            grades = verifier.grade(pairs)
            table[title][grader] = measure(rows, [g.reward for g in grades], [g.ms for g in grades])
            table[title][grader]["outcomes"] = outcome_counts(grades)
        # In a process of its own, which a power tower may take along; its limit by signal needs a main thread.
        with ProcessPoolExecutor(1) as executor:
            rewards, ms = zip(*executor.map(math_verify_reward, pairs), strict=True)
        table[title]["math-verify"] = measure(rows, list(rewards), list(ms))
        rewards, ms = zip(*map(exact_reward, pairs), strict=True)
        table[title]["exact match"] = measure(rows, list(rewards), list(ms))
    return table


def throughput(workers: int) -> dict[str, Any]:
    """Answers per second for short integers, and a batch of 1,024 of which 5 % are bombs."""
    items = [(rf"So the answer is \boxed{{{i % 97}}}.", str(i % 89)) for i in range(20_000)]
    with Verifier(MathGrader(), workers=workers) as verifier:
        start = time.perf_counter()
        verifier.grade(items)
        rate = len(items) / (time.perf_counter() - start)
    limit, bombs = 2.0, 51
    batch = [(BOMB if i % 20 == 7 else rf"\boxed{{{i}}}", str(i)) for i in range(1_024)]
    bombs = sum(text == BOMB for text, _ in batch)
    with Verifier(MathGrader(), workers=workers, timeout_s=limit) as verifier:
        start = time.perf_counter()
        grades = verifier.grade(batch)
        seconds = time.perf_counter() - start
    return {
        "short_integers_per_s": round(rate),
        "bomb_batch": {
            "answers": len(batch),
            "bombs": bombs,
            "limit_s": limit,
            "seconds": round(seconds, 1),
            "allowed_s": round(bombs * limit / workers + 10, 1),
            "outcomes": outcome_counts(grades),
            "slowest_ms": round(max(g.ms for g in grades), 1),
        },
    }


def machine(note: str) -> dict[str, Any]:
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
        model = found.group(1) if found else model
    vendor = "AMD EPYC" if "EPYC" in model else model
    packages = ("math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime")
    return {
        "machine": f"{os.cpu_count()}-core {vendor}, CPU only",
        "load_average": round(os.getloadavg()[0], 1),
        "note": note,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "date": datetime.date.today().isoformat(),
    }


def show(result: dict[str, Any]) -> str:
    lines = []
    for title, graders in result["table"].items():
        rows = next(iter(graders.values()))["rows"]
        lines += [
            "",
            f"{title} ({rows})",
            f"{'':<24}{'right':>8}{'paid wrongly':>14}{'not paid':>10}{'mean ms':>10}{'p95 ms':>9}{'max ms':>9}",
        ]
        for grader, m in graders.items():
            lines.append(
                f"{grader:<24}{m['right']:>8.4f}{m['paid_wrongly']:>14}{m['not_paid']:>10}{m['mean_ms']:>10.1f}{m['p95_ms']:>9.1f}{m['max_ms']:>9.0f}"
            )
    bomb = result["throughput"]["bomb_batch"]
    lines += ["", f"short integers: {result['throughput']['short_integers_per_s']} answers/s with {result['workers']} workers"]
    lines += [
        f"{bomb['answers']} answers with {bomb['bombs']} bombs at {bomb['limit_s']} s: {bomb['seconds']} s (allowed {bomb['allowed_s']} s)"
    ]
    lines += [f"largest process: {result['peak_mib']} MiB; load average before: {result['load_average']}"]
    return "\n".join(lines)


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=root / "benchmarks" / "results" / "verifier.json")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--note", default="", help="said in the result, for example that the machine was busy")
    args = parser.parse_args()
    if not (args.data / "verifier_cases.jsonl").exists():
        print(f"--data: {args.data} has no verifier_cases.jsonl", file=sys.stderr)
        return 2
    result = machine(args.note) | {"workers": args.workers}
    with Verifier(MathGrader(), workers=args.workers) as ours, Verifier(MathGrader(evaluated=False), workers=args.workers) as habit:
        # The suites of other graders want expressions of the value paid; ours does that with evaluated: false only.
        result["table"] = run_table(args.data, {"ours": ours, "ours, evaluated: false": habit})
    result["throughput"] = throughput(args.workers)
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    result["peak_mib"] = round(max(peaks) / 1024)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(show(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
