"""docs/trust.md: every fault has a thread where it was seen and a test that is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/trust.md").read_text(encoding="utf-8").split("## Random faults")[0]
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line]
FAULTS = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in ROWS if not row.startswith("| fault |")]


@cache
def named_in(path: str) -> set[str]:
    """Names of a file's test functions, those of its classes included."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("fault", FAULTS, ids=[cells[0] for cells in FAULTS])
def test_every_fault_has_a_thread_and_a_test(fault):
    _, harm, threads, named = fault
    assert harm
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", thread) for thread in threads.split(", ")), threads
    found = re.findall(r"`([\w/]+\.py)::(test_\w+)`", named)
    assert len(found) == len(named.split(", ")) > 0, named
    for path, name in found:
        assert name in named_in(path), f"{path} has no {name}"


def test_the_page_has_the_faults_of_its_sections():
    assert len(FAULTS) >= 20 and len({cells[0] for cells in FAULTS}) == len(FAULTS)
