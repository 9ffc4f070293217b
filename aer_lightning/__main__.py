"""``python -m aer_lightning``: one table of subcommands. Nothing heavy is imported before a subcommand is known."""

from __future__ import annotations

import sys
from collections.abc import Callable

from aer_lightning import __version__
from aer_lightning.errors import UserError
from aer_lightning.signals import Stopped

TRAINER_COMMANDS = {
    "fit": "train a policy: fit -c configs/aer.yaml [-c overlay.yaml] [--key value]",
    "validate": "pass@k of a model on held-out problems: validate -c configs/eval.yaml",
    "test": "the same on the test sources",
    "predict": "graded completions of held-out problems, as rows",
}
TOOLS = {
    "plan": "memory and time of a run before it starts: plan -c configs/aer.yaml [--gpu h100-80gb] [--json]",
    "grade": "grade answers of a JSONL file: grade FILE.jsonl [--out OUT.jsonl]",
    "study": "every method with one budget over seeds, to docs/study: study [--dry-run | --quick]",
    "tune-controller": "gains of the entropy controller from a run's log: tune-controller RUN_DIR",
    "completion": "completion for your shell: source <(python -m aer_lightning completion bash)",
    "export": "a checkpoint as a Hugging Face folder with a model card: export CHECKPOINT FOLDER [--dtype bfloat16]",
    "sweep": "a grid of options x seeds, resumable, one process per device: sweep PLAN.yaml",
    "watch": "the report of a run while it goes on, as a page on this machine: watch RUN_DIR",
    "compare": "table and HTML report of finished runs: compare RUN_DIR...",
}


def help_text() -> str:
    """The text of ``--help``."""
    lines = ["usage: python -m aer_lightning COMMAND [options]", "", "Adaptive Entropy Regularization for RLVR, on PyTorch Lightning.", ""]
    for title, table in (("training and evaluation", TRAINER_COMMANDS), ("tools", TOOLS)):
        lines += [f"{title}:", *(f"  {name:<17}{text}" for name, text in table.items()), ""]
    return "\n".join([*lines, "options of a command: python -m aer_lightning COMMAND --help;  --version prints the version"])


def _lightning(argv: list[str]) -> int:
    from aer_lightning.cli import main as run

    return run(argv)


def _tool(name: str) -> Callable[[list[str]], int]:
    from importlib import import_module

    module = {"plan": "plan.command"}.get(name, name.replace("-", "_"))
    return import_module(f"aer_lightning.{module}").main


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit status: 0, or 2 for anything the user can mend, said in one line."""
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if command == "--version":
        print(f"aer_lightning {__version__}")
        return 0
    if command not in TRAINER_COMMANDS and command not in TOOLS:
        print(f"error: no command {command!r}; use one of {', '.join([*TRAINER_COMMANDS, *TOOLS])}", file=sys.stderr)
        return 2
    try:
        return _lightning(argv) if command in TRAINER_COMMANDS else _tool(command)(argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        if str(stop):
            print(stop, file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
