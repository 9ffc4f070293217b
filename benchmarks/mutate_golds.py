"""Change one symbol of real gold answers, grade the result, and look at what is paid: its value has to be the same.

    python benchmarks/mutate_golds.py [--golds 3000] [--mutants 6] [--seed 0] [--data ../shared/data]

Golds are drawn from every file of the folder that has some, those that are no plain integers first. A mutant that is paid is read again
by what shares nothing with the grader: the characters, once spaces, braces and dollar signs are gone and numbers are written plainly, and
sympy's own LaTeX parser at random points. What it shows to differ is an error (exit status 1); what it cannot read
is listed, to be looked at.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import sympy
from sympy.parsing.latex import parse_latex

from aer_lightning.data.rewards import MathGrader, Verifier

DIGITS, LETTERS = "0123456789", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIGNS = "+-*/^_=<>()[]{},;:.!|%&$'\\ "


def read_golds(folder: Path, count: int, rng: random.Random) -> list[str]:
    """``count`` gold answers of the folder's files, each distinct one before any comes again for another problem."""
    golds: dict[str, int] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.open(encoding="utf-8", errors="surrogatepass"):
            row = json.loads(line)
            answer = str(row.get("answer", row.get("gold", ""))).rsplit("####", 1)[-1].strip()
            if 0 < len(answer) < 200 and "boxed" not in answer:  # those are solutions with prose
                golds[answer] = golds.get(answer, 0) + 1
    shuffled = rng.sample(sorted(golds), len(golds))
    distinct = sorted(shuffled, key=lambda gold: bool(re.fullmatch(r"-?\d+", gold)))
    again = [gold for gold in shuffled for _ in range(golds[gold] - 1)]
    return (distinct + rng.sample(again, len(again)))[:count]


def mutate(text: str, rng: random.Random) -> str:
    """``text`` with one symbol replaced, removed, added or swapped with the next."""
    at, kind = rng.randrange(len(text)), rng.random()
    symbol = text[at]
    if kind < 0.55:
        pool = DIGITS if symbol.isdigit() else LETTERS if symbol.isalpha() else SIGNS
        return text[:at] + rng.choice([other for other in pool if other != symbol]) + text[at + 1 :]
    if kind < 0.7:
        return text[:at] + text[at + 1 :]
    if kind < 0.9:
        return text[:at] + rng.choice(DIGITS + SIGNS + "xn") + text[at:]
    return text[:at] + text[at + 1 : at + 2] + symbol + text[at + 2 :]


# What may differ between two spellings of one answer, in the order of application.
SPELLING = [
    (r"\\boxed|\\left|\\right|\\[!,;:> ()\[\]]|\\(?:text|mbox|mathrm|textbf)(?![a-z])|\\(?:begin|end)\{[^}]*\}|\\n(?![a-z])", ""),
    (r"[dtc]frac", "frac"),
    (r"[\s{}$\\&]", ""),
    (r"(?<=\d)(?!sqrt|frac|cup|infty|pi|mod)[a-z]{3,}[^a-z\d]?$", ""),  # words after a number; a known unit has to agree anyway
    (r"[*!](?=pi$)", ""),  # \pi without its backslash is read as pi
    (r"mp", "pm"),
    (r"[,;]+", ","),
    (r"=+", "="),
    (r"^(-?\d+),(?=\d{1,2}$|\d{4,}$)|^(-?0),(?=\d+$)", r"\1\2."),
    (r"(?<=\d)[,'](?=\d{3}(?!\d))", ""),
    (r"(?<!\d)\.(?=\d)", "0."),
    (r"(?<![\d.])0+(?=\d)", ""),
    (r"(?<=\d)(\.\d*?)0+(?!\d)", r"\1"),
    (r"(?<![\w)\]])\+|(?<=[,(\[])=|[.,;:!]+(?=[)\]])", ""),
    (r",(?=[a-z]_?\d*=)", ""),
    (r"^[.,;:=!'?]+|[.,;:=!'?]+$", ""),
    (r"^([+-]?[\d.]+)%$", r"\1"),  # of a number alone: two of the public suites take a percent sign for optional
]


def plain(text: str) -> str:
    """``text`` in one spelling; words without their punctuation."""
    for pattern, to in SPELLING:
        text = re.sub(pattern, to, text.casefold())
    return re.sub(r"[^a-z]", "", text) if re.fullmatch(r"[a-z(),.!':-]+", text) else text


def values(text: str, rng: random.Random) -> list[complex] | None:
    """Values of the expression, or of both sides of an equation, at random points; None if it cannot be read."""
    try:
        read = parse_latex(re.sub(r"\$|\\left|\\right|\\[!,;]", "", text).replace("dfrac", "frac"), strict=True, backend="lark")
        sides = [read.lhs - read.rhs] if isinstance(read, sympy.Eq) else [read]
        symbols = sorted({s for side in sides for s in side.free_symbols}, key=str)
        points = [{s: sympy.Rational(rng.randint(3, 97), 7) for s in symbols} for _ in range(4)]
        return [complex(side.subs(point)) for side in sides for point in points]
    except Exception:  # this parser reads little and raises whatever it likes
        return None


def same_value(gold: str, mutant: str) -> bool | None:
    """Whether the two say the same; None if that cannot be told."""
    a, b = plain(gold), plain(mutant)
    if b in (a, re.sub(r"^[a-z]=", "", a)):
        return True
    if all(re.fullmatch(r"-?\d+(\.\d+)?", text) for text in (a, b)):
        return Fraction(a) == Fraction(b)
    x, y = values(gold, random.Random(0)), values(mutant, random.Random(0))
    return None if x is None or y is None else all(abs(p - q) <= 1e-9 * (1 + abs(p)) for p, q in zip(x, y, strict=True))


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--golds", type=int, default=3_000)
    parser.add_argument("--mutants", type=int, default=6, help="of each gold answer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    golds = read_golds(args.data, args.golds, rng)
    if not golds:
        print(f"--data: {args.data} has no .jsonl file with answers", file=sys.stderr)
        return 2
    with Verifier(MathGrader(), workers=args.workers) as verifier:
        bad = verifier.check_golds(golds)
        golds = [gold for gold, reason in zip(golds, bad, strict=True) if reason is None]
        pairs = [(gold, mutant) for gold in golds for _ in range(args.mutants) if (mutant := mutate(gold, rng)) != gold]
        # A brace too many would close the box early, so that another answer than the mutant is graded.
        pairs = [pair for pair in pairs if len({text.count("{") - text.count("}") for text in pair}) == 1]
        grades = verifier.grade([(rf"\boxed{{{mutant}}}", gold) for gold, mutant in pairs])
    paid = [pair for pair, grade in zip(pairs, grades, strict=True) if grade.reward]
    verdicts = [same_value(*pair) for pair in paid]
    for title, verdict in (("differs", False), ("not told", None)):
        for gold, mutant in [pair for pair, same in zip(paid, verdicts, strict=True) if same is verdict]:
            print(f"{title}: gold {gold!r}, mutant {mutant!r}")
    outcomes = dict(Counter(grade.outcome.value for grade in grades))
    print(f"{len(golds)} golds ({len(bad) - len(golds)} bad ones left out), {len(pairs)} mutants, seed {args.seed}: {outcomes}")
    wrong = verdicts.count(False)
    print(f"{len(paid)} paid: {verdicts.count(True)} say the same, {wrong} differ, {verdicts.count(None)} cannot be told")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
