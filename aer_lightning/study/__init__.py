"""``python -m aer_lightning study``: every method on one task with one budget, over seeds, resumable, to a report."""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Run the command; see ``aer_lightning.study.command``."""
    from aer_lightning.study.command import main as run

    return run(argv)
