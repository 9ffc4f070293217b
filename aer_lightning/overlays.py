"""Configuration files that contradict each other, found before anything is built.

Later files change earlier ones, option by option; but a list (``trainer.callbacks``) or a class (``objective``) is replaced as a
whole. So two methods on one command line would not add up: the second would silently take the place of the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aer_lightning.config_files import read_config
from aer_lightning.errors import ConfigError

WHOLE = ("model.class_path", "data.class_path")  # what a configuration that stands alone says


def check_overlays(argv: Sequence[str]) -> None:
    """Refuse configuration files of which one replaces what another one chose. The first file is the base, which any overlay may change.

    Args:
        argv: a command line, with ``-c FILE`` or ``--config FILE`` for each file.

    Raises:
        ConfigError: names the option and both files, the base that comes after its overlay, or a file that cannot be read.
    """
    files = [(name, choices) for name in config_files(argv) if (choices := read_choices(Path(name))) is not None]
    for i, (name, choices) in enumerate(files):
        if i and all(key in choices for key in WHOLE) and not all(key in files[0][1] for key in WHOLE):
            raise ConfigError(f"config: {name} is a whole configuration and would replace what {files[0][0]} says; give {name} first")
    for i, (name, choices) in enumerate(files):
        for other, earlier in files[1:i]:
            for key in sorted(choices.keys() & earlier.keys() - set(WHOLE), reverse=True):  # trainer.callbacks before what goes with it
                if choices[key] != earlier[key]:
                    raise ConfigError(
                        f"{key.removesuffix('.class_path')}: {other} and {name} each choose their own, and the second would replace the "
                        "first; keep one of the files, or write one with what both should say"
                    )


def find_configs(argv: Sequence[str]) -> list[str]:
    """The command line with configurations of this package (``configs/aer.yaml``) found wherever it is run; a file at hand goes first."""
    found = list(argv)
    for place, name in config_places(argv):
        found[place] = found[place].removesuffix(name) + _find(name)
    return found


def _find(name: str) -> str:
    home = Path(__file__).parent
    folder = home / "configs" if (home / "configs").is_dir() else home.parent / "configs"  # of a wheel, of the repository
    kept = folder / name.removeprefix("configs/")
    return str(kept) if not Path(name).exists() and kept.suffix == ".yaml" and kept.is_file() else name


def config_files(argv: Sequence[str]) -> list[str]:
    """The files given by ``-c`` or ``--config``, in their order."""
    return [name for _, name in config_places(argv)]


def config_places(argv: Sequence[str]) -> list[tuple[int, str]]:
    """The files given by ``-c`` or ``--config``, each with the place of the argument that ends in its name.

    Example:
        >>> config_places(["fit", "-c", "a.yaml", "--config=b.yaml"])
        [(2, 'a.yaml'), (3, 'b.yaml')]
    """
    found: list[tuple[int, str]] = []
    for place, argument in enumerate(argv):
        option, equals, value = argument.partition("=")
        if option in ("-c", "--config"):
            found += [(place, value)] if equals else [(place + 1, name) for name in argv[place + 1 : place + 2]]
    return found


def read_choices(path: Path) -> dict[str, Any] | None:
    """Lists and class names of a file by their dotted option; None where there is no file, which the parser reports."""
    config = read_config(path)
    return dict(_choices("", config)) if config is not None else None


def _choices(prefix: str, config: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _choices(f"{name}.", value)
        elif isinstance(value, list) or key == "class_path":
            yield name, value
