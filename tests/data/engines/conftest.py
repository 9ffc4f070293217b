"""Fixtures of the engines' tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

# tests are imported one file at a time (importmode importlib), so that what they share has to be made findable
sys.path.insert(0, str(Path(__file__).parent))

from engine_helpers import write_model


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A function (kind, tied) -> (folder, model); each model is written once, so tests must not change it."""
    made: dict[tuple[str, bool], tuple[Path, torch.nn.Module]] = {}

    def folder(kind: str, tied: bool = False) -> tuple[Path, torch.nn.Module]:
        if (kind, tied) not in made:
            path = tmp_path_factory.mktemp(f"{kind}-{'tied' if tied else 'untied'}")
            made[kind, tied] = (path, write_model(path, kind, tied))
        return made[kind, tied]

    return folder


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
