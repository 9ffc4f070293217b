"""Files that ship with the package: the tiny Countdown model. No heavy imports."""

from __future__ import annotations

from pathlib import Path

COUNTDOWN_TINY = "countdown-tiny"
MODELS = (COUNTDOWN_TINY,)


def asset(name: str) -> Path:
    """Path of a shipped file or folder."""
    return Path(__file__).parent / name


def resolve_model(name_or_path: str) -> Path | str:
    """Turn the name of a shipped model (``"countdown-tiny"``) into its folder; any other name or path comes back unchanged.

    A folder of that name in the current directory is not looked at: the name always means the shipped model, and
    ``./countdown-tiny`` the folder.
    """
    return asset(name_or_path) if name_or_path in MODELS else name_or_path
