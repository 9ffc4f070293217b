"""What a command line may not say, whatever the command: found before anything is built, one line each."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from aer_lightning.errors import ConfigError
from aer_lightning.overlays import config_files
from aer_lightning.temporary import IN_PASSING

LARGEST_SEED = 2**32 - 1  # numpy's


def check_text(argv: Sequence[str]) -> None:
    """Refuse arguments that are no UTF-8: they could neither be written to a file nor shown.

    Raises:
        ConfigError: names the option.
    """
    option = ""
    for argument in argv:
        if argument.startswith("-"):
            option = argument.partition("=")[0].lstrip("-")
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{ascii(option)[1:-1]}: {argument!a} is not UTF-8 text; write it in UTF-8") from None


def check_name(name: str) -> None:
    """Refuse a name of a run whose folder would not lie in ``runs``.

    Raises:
        ConfigError: it is empty, absolute, too long, or leads out.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > 200 for part in parts):
        raise ConfigError(f"name: {name!r} cannot name a folder in runs/; use letters, digits, - and _")


def check_seed(seed: Any) -> None:
    """Refuse a seed that the generators do not take.

    Raises:
        ConfigError: it is out of range.
    """
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(f"seed_everything: {seed} is not in 0..{LARGEST_SEED}")


def check_writable(folder: Path, option: str = "run_dir") -> None:
    """Refuse a folder that cannot be made or written; nothing stays behind.

    Raises:
        ConfigError: names the folder and what the system says.
    """
    try:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryDirectory(prefix=IN_PASSING, dir=there):
            pass
    except OSError as error:
        raise ConfigError(f"{option}: {folder} cannot be written ({error.strerror}); choose another folder") from None


def interpolation_error(error: OmegaConfBaseException, argv: Sequence[str]) -> ConfigError:
    """What an interpolation such as ``${model.init_args.pretrained}`` refers to in vain, and the file that has it."""
    option = re.sub(r"^(fit|validate|test|predict)\.", "", str(error.full_key or "config"))
    said = str(error).splitlines()[0]
    if found := re.search(r"key '\.*([^']+)' not found", said):
        said = f"${{{found.group(1)}}} refers to no option"
        for name in config_files(argv):
            if Path(name).is_file() and found.group(1) in Path(name).read_text(encoding="utf-8"):
                said += f" (in {name})"
    return ConfigError(f"{option}: {said}")
