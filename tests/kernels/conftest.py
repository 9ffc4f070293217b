"""Makes settings.py importable from the tests of this folder, and finds what they leave behind."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _nothing_stays_replaced() -> Iterator[None]:
    """A stand-in that outlives its test (two ways of patching, undone in the wrong order) would spoil gradients of tests far away."""
    from aer_lightning.kernels import operators, planning, walk

    before = [dict(vars(module)) for module in (walk, operators, planning)]
    yield
    after = [vars(module) for module in (walk, operators, planning)]
    names = [name for old, new in zip(before, after, strict=True) for name in old if old[name] is not new.get(name)]
    assert not names, f"left replaced: {', '.join(names)}"
