from __future__ import annotations

import logging
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
