"""Sizes for a kind of machine: ``--profile gpu`` lays ``profile/gpu/NAME.yaml``, beside the configuration NAME.yaml, over it.

A configuration as it stands is its own profile ``cpu``. Without the option the profile is ``gpu`` where there is an NVIDIA GPU that may be
used and the configuration has such a file. What a run was started with is in the ``config.yaml`` of its folder.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from aer_lightning.errors import ConfigError
from aer_lightning.overlays import config_places

OPTION = "--profile"
PLAIN, AUTO = "cpu", "auto"


def lay_profile(argv: Sequence[str], present: str | None = None) -> list[str]:
    """``argv`` without ``--profile``, and with the files that it chooses as ``-c FILE``, each after the configuration that it is for.

    Args:
        argv: a command line with configurations that were found.
        present: what ``auto`` stands for; None looks for a GPU.

    Raises:
        ConfigError: no configuration of the command has this profile; names those that there are.
    """
    chosen, kept = _take(argv)
    configs = [(place, Path(name)) for place, name in config_places(kept)]
    if chosen == AUTO:
        kinds = {kind for _, path in configs for kind in profiles_of(path)}
        chosen = (present or _present(kept)) if kinds - {PLAIN} else PLAIN
    elif not configs:
        raise ConfigError(f"profile: {chosen!r} is a profile of a configuration; give one, -c configs/gsm8k.yaml")
    elif chosen not in (known := sorted({kind for _, path in configs for kind in profiles_of(path)})):
        names = ", ".join(path.name for _, path in configs)
        raise ConfigError(f"profile: {names} has no profile {chosen!r}; use one of {', '.join([AUTO, *known])}")
    for place, path in reversed(configs):
        if chosen in profiles_of(path)[1:]:
            kept[place + 1 : place + 1] = ["-c", str(_file(path, chosen))]
    return kept


def profiles_of(config: Path) -> list[str]:
    """The profiles of a configuration: ``cpu``, which is the file itself, and those with a file in the folder ``profile`` beside it."""
    return [PLAIN, *sorted(path.parent.name for path in config.parent.glob(f"profile/*/{config.name}"))]


def _file(config: Path, profile: str) -> Path:
    return config.parent / "profile" / profile / config.name


def _take(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The profile asked for, and the rest of the command line."""
    chosen, kept, arguments = AUTO, [], iter(argv)
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option != OPTION:
            kept.append(argument)
            continue
        chosen = value if equals else next(arguments, "")
        if not chosen or chosen.startswith("-"):
            raise ConfigError(f"profile: {OPTION} wants a name: {AUTO}, {PLAIN} or gpu")
    return chosen, kept


def _present(argv: Sequence[str]) -> str:
    """``gpu`` where there is one and ``--trainer.accelerator`` does not say cpu."""
    import torch

    said = [b for a, b in itertools.pairwise(argv) if a == "--trainer.accelerator"]
    said += [a.partition("=")[2] for a in argv if a.startswith("--trainer.accelerator=")]
    return "gpu" if torch.cuda.is_available() and said[-1:] != ["cpu"] else PLAIN
