"""``python -m aer_lightning grade FILE.jsonl``: grade predictions against gold answers. Imports neither torch nor lightning.

One JSON object a line, ``{"id", "gold", "prediction"}``, or a run's ``predictions.jsonl`` or ``samples.jsonl`` as they are (``answer`` and
``completion`` in their place); a ``prompt`` is used if it is there. Out come lines ``{"id", "outcome", "reward", "extracted", "reason",
"ms"}`` in the same order, and a summary on stderr. A malformed line is named there and has no line in the output; the exit status is then
1.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from aer_lightning.data.rewards import ChoiceGrader, ExactGrader, Grade, Grader, MathGrader, Outcome, QuantityGrader, Verifier
from aer_lightning.data.rewards.countdown import CountdownGrader
from aer_lightning.data.rewards.extract import EXTRACT_MODES
from aer_lightning.errors import ConfigError, DataError, UserError

_BATCH = 1_024
_LONGEST_LINE = 64 << 20  # bytes
_GRADERS = ("auto", "math", "countdown", "choice", "exact", "quantity")
_SHOWN_BAD_GOLDS = 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aer_lightning grade", description="Grade mathematical answers, one JSON object a line.")
    parser.add_argument(
        "file",
        metavar="FILE.jsonl",
        help='lines {"id", "gold", "prediction"}, or the predictions.jsonl or samples.jsonl of a run; - reads standard input',
    )
    parser.add_argument(
        "--grader",
        choices=_GRADERS,
        default="auto",
        help="auto: countdown where the first gold answer has numbers and a target, else math (default: %(default)s)",
    )
    parser.add_argument("--out", metavar="OUT.jsonl", help="where the verdicts go (default: standard output)")
    parser.add_argument(
        "--extract", choices=EXTRACT_MODES, default="auto", help="where the answer is in a prediction (default: %(default)s)"
    )
    parser.add_argument(
        "--evaluated",
        choices=("true", "false"),
        default="true",
        help="true: a number is stated by an evaluated number only; false: by every expression of its value (default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for one answer (default: %(default)s)")
    parser.add_argument("--memory-mb", type=int, default=1024, help="memory of one worker in MiB (default: %(default)s)")
    return parser


def _read_line(raw: bytes) -> dict[str, Any]:
    """One input line; raises ValueError saying what is wrong with it."""
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON ({str(error)[:80]})") from error
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    for name, other in (("id", "id"), ("gold", "answer"), ("prediction", "completion")):
        if name not in row and other not in row:
            raise ValueError(f'has no field "{name}"' + (f' or "{other}"' if other != name else ""))
        row.setdefault(name, row.get(other))
    if not isinstance(row["prediction"], str):
        raise ValueError('field "prediction" is not a string')
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        prompt = "\n".join(str(message.get("content", "")) for message in prompt if isinstance(message, dict))
    row["prompt"] = prompt if isinstance(prompt, str) else ""
    return row


def _grader(args: argparse.Namespace, gold: Any) -> Grader:
    """The grader asked for; the first gold answer decides where none was."""
    name = args.grader
    if name == "auto":
        name = "countdown" if isinstance(gold, dict) and {"numbers", "target"} <= set(gold) else "math"
    if name == "countdown":
        return CountdownGrader()
    if name == "math":
        return cast("Grader", MathGrader(args.extract, args.evaluated == "true"))
    return cast("Grader", {"choice": ChoiceGrader, "exact": ExactGrader, "quantity": QuantityGrader}[name]())


class _Summary:
    """Counts and times, and the malformed lines."""

    def __init__(self) -> None:
        self.count = dict.fromkeys(Outcome, 0)
        self.ms = dict.fromkeys(Outcome, 0.0)
        self.slowest = 0.0
        self.malformed = 0
        self.changed = 0
        self.bad_golds: list[str] = []

    def add(self, row: dict[str, Any], grade: Grade) -> None:
        self.changed += row.get("outcome", grade.outcome.value) != grade.outcome.value
        if grade.outcome is Outcome.BAD_GOLD and len(self.bad_golds) < _SHOWN_BAD_GOLDS:
            self.bad_golds.append(f"bad gold answer of {row['id']}: {grade.reason}")
        self.count[grade.outcome] += 1
        self.ms[grade.outcome] += grade.ms
        self.slowest = max(self.slowest, grade.ms)

    def show(self, seconds: float) -> str:
        total = sum(self.count.values())
        lines = [f"{'outcome':<10}{'count':>9}{'share':>9}{'mean ms':>10}"]
        for outcome in Outcome:
            count = self.count[outcome]
            mean = f"{self.ms[outcome] / count:.1f}" if count else "-"
            lines.append(f"{outcome.value:<10}{count:>9}{count / max(total, 1):>9.3f}{mean:>10}")
        lines += self.bad_golds
        if self.changed:
            lines.append(f"{self.changed} verdicts differ from the outcome that the file has")
        lines.append(f"{'total':<10}{total:>9}   {seconds:.1f} s, slowest answer {self.slowest:.0f} ms, {self.malformed} malformed lines")
        return "\n".join(lines)


def _rows(source: IO[bytes], name: str, summary: _Summary) -> Iterator[dict[str, Any]]:
    for number, raw in enumerate(iter(lambda: source.readline(_LONGEST_LINE + 1), b""), start=1):
        if len(raw) > _LONGEST_LINE:
            raise DataError(f"{name}: line {number} is longer than {_LONGEST_LINE >> 20} MiB; is it one JSON object a line?")
        if not raw.strip():
            continue
        try:
            yield _read_line(raw)
        except ValueError as error:
            summary.malformed += 1
            print(f"{name}: line {number} {error}", file=sys.stderr)


def _open_in(stack: contextlib.ExitStack, name: str) -> IO[bytes]:
    if name == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(Path(name).open("rb"))
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from error


def _open_out(stack: contextlib.ExitStack, name: str | None, source: str) -> IO[str]:
    if name is None or name == "-":
        return sys.stdout
    if source != "-" and Path(name).exists() and Path(name).samefile(source):
        raise ConfigError(f"--out: {name} is the input file; choose another name")
    try:
        return stack.enter_context(Path(name).open("w", encoding="utf-8"))
    except OSError as error:
        raise DataError(f"--out: {name} cannot be written: {error.strerror}") from error


def _grade(args: argparse.Namespace) -> int:
    summary = _Summary()
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        source = _open_in(stack, args.file)
        out = _open_out(stack, args.out, args.file)
        rows = _rows(source, "standard input" if args.file == "-" else args.file, summary)
        first = next(rows, None)
        rows = itertools.chain([] if first is None else [first], rows)
        grader = _grader(args, first["gold"] if first else None)
        verifier = stack.enter_context(Verifier(grader, workers=args.workers, timeout_s=args.timeout, memory_mb=args.memory_mb))
        while batch := list(itertools.islice(rows, _BATCH)):
            for row, grade in zip(batch, verifier.grade([(row["prediction"], row["gold"], row["prompt"]) for row in batch]), strict=True):
                summary.add(row, grade)
                verdict = {"id": row["id"]} | {name: row[name] for name in ("rollout", "sample") if name in row}
                verdict |= {"outcome": grade.outcome.value, "reward": grade.reward}
                verdict |= {"extracted": grade.extracted, "reason": grade.reason, "ms": round(grade.ms, 3)}
                print(json.dumps(verdict), file=out)
            out.flush()
    print(summary.show(time.perf_counter() - start), file=sys.stderr)
    return 1 if summary.malformed else 0


def main(argv: list[str]) -> int:
    """Run the command with the arguments after ``grade``; returns the exit status: 0, 1 (malformed lines) or 2 (cannot run)."""
    args = _parser().parse_args(argv)
    try:
        return _grade(args)
    except UserError as error:
        print(f"aer_lightning grade: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
