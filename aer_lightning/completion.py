"""``python -m aer_lightning completion bash|zsh|tcsh``: a script for the shell, with commands, options and class names."""

from __future__ import annotations

import argparse
import importlib.util

from aer_lightning.errors import ConfigError


def main(argv: list[str]) -> int:
    """Print the script; returns the exit status.

    Raises:
        ConfigError: the package shtab is missing.
    """
    parser = argparse.ArgumentParser(
        prog="python -m aer_lightning completion",
        description="Completion of the command aer-lightning: source <(python -m aer_lightning completion bash)",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    shell = parser.parse_args(argv).shell
    if importlib.util.find_spec("shtab") is None:
        raise ConfigError("completion: needs the package shtab, which is not here; pip install shtab")
    import shtab

    print(shtab.complete(commands(), shell=shell))
    return 0


def commands() -> argparse.ArgumentParser:
    """A plain parser with every command and its options."""
    from aer_lightning.__main__ import TOOLS, TRAINER_COMMANDS
    from aer_lightning.cli import subcommand_options

    parser = argparse.ArgumentParser(prog="aer-lightning")
    places = parser.add_subparsers()
    for name, text in TRAINER_COMMANDS.items():
        sub = places.add_parser(name, help=text.partition(":")[0])
        for option in subcommand_options(name):
            sub.add_argument(option)
        sub.add_argument("-c", "--config").complete = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}  # type: ignore[attr-defined]
    for name, text in TOOLS.items():
        places.add_parser(name, help=text.partition(":")[0])
    return parser
