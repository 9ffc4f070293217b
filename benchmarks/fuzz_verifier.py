"""Mutate answers for minutes and look for a crash, a hang, a verdict that changes, or a payment that is not deserved.

    python benchmarks/fuzz_verifier.py [--minutes 10] [--seed 0] [--data ../shared/data]

Every finding is printed with what reproduces it; the exit status is 1 if there was one. The properties: grading ends with a verdict
within its limit, the same one twice; an answer is right against itself, boxed and spaced as one likes; an integer or a list of
integers that was changed is never paid.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

from aer_lightning.data.rewards import Grade, MathGrader, Outcome, Verifier

SEEDS = [r"\boxed{42}", r"\boxed{\frac{1}{2}}", "The answer is 3 or 4.", r"\boxed{(1, 2]}", r"\boxed{x = \sqrt{2}}", r"\boxed{1, 2, 3}"]
GOLDS = ["42", r"\frac{1}{2}", "3", "(1, 2]", r"\sqrt{2}", "1, 2, 3", r"\text{Monday}", "50\\%", r"\begin{pmatrix}1\\2\end{pmatrix}", "x+1"]
PIECE_LIST = r"""\boxed{ } { \frac{ \sqrt{ \text{or} \pm = \approx , ; 42 43 1/2 0.5 ^ ^{ _ ( ) [ ] \{ \} $ \( \) \infty x n! % answer_is
    #### </think> <think>"""
PIECES = PIECE_LIST.split()
PIECES += [
    r"\\",
    "&",
    "½",
    "²",
    "４",
    "−",
    "|",
    "'",
    "\u200b",
    "\ud800",
    "\x00",
    "9^9",
    "!!",
    r"\ldots",
    "i",
    "e",
    r"\pi",
    r"\left(",
    "\n",
    " or ",
    " and ",
    "%",
]
SHAPES = ["{o}", "{g} or {o}", "{o} or {g}", "{g}, {o}", "{o} = {g}", "x = {o} = {g}", r"{g} \approx {o}", r"{o} \approx {g}", "{o}.0"]
SHAPES += [
    r"{g} \text{{ or }} {o}",
    r"\{{{o}, {g}\}}",
    "({g}, {o})",
    r"{o}\text{{ not }} {g}",
    "{g}.0000001",
    "x={g}, y={o}",
    r"{o} \neq {g}",
    r"\pm {o}",
]
SLACK_S = 1.0


def mutate(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 4)):
        at, end = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        end = min(end, at + 40)
        kind = rng.randint(0, 5)
        if kind == 0:
            text = text[:at] + text[end:]
        elif kind == 1:
            text = text[:end] + text[at:end] * rng.choice([1, 2, 50]) + text[end:]
        elif kind == 2:
            text = text[:at] + rng.choice(PIECES).replace("answer_is", "answer is") + text[at:]
        elif kind == 3:
            text = text[:at] + "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 6))) + text[end:]
        elif kind == 4:
            text = re.sub(r"\d+", lambda m: str(rng.choice([int(m.group()[:9]) + 1, 0, 10**9])), text, count=1)
        else:
            text = text[:at] + chr(rng.choice([rng.randint(32, 126), rng.randint(160, 0x2FFF)])) + text[at:]
    return text[-20_000:]


class Fuzzer:
    """One run: a verifier, a source of randomness, what was counted and what was found."""

    def __init__(self, verifier: Verifier, corpus: list[tuple[str, str]], golds: list[str], seed: int):
        self.verifier, self.corpus, self.golds = verifier, corpus, golds
        self.rng = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.findings: list[str] = []

    def grade(self, items: list[tuple[str, str]]) -> list[Grade]:
        """Grade and count; errors and late verdicts are findings whatever is graded."""
        grades = self.verifier.grade(items)
        for (text, gold), grade in zip(items, grades, strict=True):
            self.outcomes[grade.outcome.value] += 1
            if grade.outcome is Outcome.ERROR:
                self.report("error", text, gold, grade)
            if grade.ms > (self.verifier.pool.timeout_s + SLACK_S) * 1000:
                self.report("late", text, gold, grade)
        return grades

    def report(self, kind: str, text: str, gold: str, grade: Grade) -> None:
        """Print a finding with the end of the prediction, where the answer is."""
        line = f"{kind}: gold {gold[:200]!r} prediction {text[-400:]!r}: {grade}"
        self.findings.append(line)
        print(line, flush=True)

    def any_text(self) -> None:
        """Mutated completions: a verdict, and the same one again."""
        items = []
        for _ in range(100):
            text, gold = self.rng.choice(self.corpus)
            items.append((mutate(text, self.rng), mutate(gold, self.rng) if self.rng.random() < 0.2 else gold))
        first, second = self.grade(items), self.grade(items)
        for (text, gold), a, b in zip(items, first, second, strict=True):
            slow = Outcome.TIMEOUT in (a.outcome, b.outcome)  # near its limit an answer may fall on either side
            if not slow and (a.outcome, a.extracted, a.reason) != (b.outcome, b.extracted, b.reason):
                self.report(f"changed to {b.outcome}", text, gold, a)

    def itself(self) -> None:
        """A gold answer in many dresses."""
        golds = [self.rng.choice(self.golds) for _ in range(20)]
        golds = [gold for gold, bad in zip(golds, self.verifier.check_golds(golds), strict=True) if bad is None]
        for gold in golds:
            bare = gold.strip().strip("$")
            dresses = [
                rf"\boxed{{{bare}}}",
                rf"$\boxed{{ {bare} }}$.",
                rf"<think>\boxed{{0}}</think> \fbox{{{bare}}}",
                f"\\boxed{{\n{bare}\n}}",
            ]
            for text, grade in zip(dresses, self.grade([(text, gold) for text in dresses]), strict=True):
                if grade.outcome not in (Outcome.CORRECT, Outcome.TIMEOUT):
                    self.report("not itself", text, gold, grade)

    def integers(self) -> None:
        """Integers that differ, alone and beside the right one."""
        items = []
        for _ in range(50):
            right = self.rng.choice([self.rng.randint(-99, 99), self.rng.randint(0, 10 ** self.rng.randint(1, 25))])
            other = right + self.rng.choice([-1, 1, 10, -right, right, self.rng.randint(1, 10**6)])
            if other == right:
                continue
            shape = self.rng.choice(SHAPES)
            items.append((rf"\boxed{{{shape.format(o=other, g=right)}}}", str(right)))
        for (text, gold), grade in zip(items, self.grade(items), strict=True):
            if grade.reward:
                self.report("paid", text, gold, grade)


def read_corpus(folder: Path) -> tuple[list[tuple[str, str]], list[str]]:
    corpus = [(text, gold) for text in SEEDS for gold in GOLDS]
    golds = list(GOLDS)
    for name in ("verifier_cases", "verifier_adversarial", "verifier_llm_outputs"):
        path = folder / f"{name}.jsonl"
        if path.exists():
            corpus += [(row["prediction"], row["gold"]) for row in map(json.loads, path.open()) if len(row["prediction"]) < 5_000]
    path = folder / "math500.jsonl"
    if path.exists():
        golds += [row["answer"] for row in map(json.loads, path.open())]
    return corpus, golds


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=5.0)
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    args = parser.parse_args()
    corpus, golds = read_corpus(args.data)
    end = time.monotonic() + args.minutes * 60
    with Verifier(MathGrader(), workers=args.workers, timeout_s=args.timeout) as verifier:
        fuzzer = Fuzzer(verifier, corpus, golds, args.seed)
        while time.monotonic() < end:
            fuzzer.any_text()
            fuzzer.itself()
            fuzzer.integers()
    print(f"{sum(fuzzer.outcomes.values())} answers from {len(corpus)} seeds: {dict(fuzzer.outcomes)}; {len(fuzzer.findings)} findings")
    return 1 if fuzzer.findings else 0


if __name__ == "__main__":
    sys.exit(main())
