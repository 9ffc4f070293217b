"""Runs the cases of this folder for the Triton backend in the interpreter: in processes of their own, which have TRITON_INTERPRET=1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("this process is the interpreter's", allow_module_level=True)

FOLDER = Path(__file__).parent
LEAST = {
    "test_linear.py": 60,
    "test_logits.py": 30,
    "test_operators.py": 15,
    "test_corners.py": 10,
    "test_options.py": 10,
    "interpreted_only.py": 25,
}  # cases that must have passed


@pytest.mark.parametrize("file", list(LEAST))
def test_in_the_interpreter(file: str, tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout=300", str(FOLDER / file)]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=FOLDER.parent.parent)
    output = finished.stdout + finished.stderr
    assert finished.returncode == 0, output[-6000:]
    passed = next(int(word) for line in reversed(output.splitlines()) if " passed" in line for word in line.split() if word.isdigit())
    assert passed >= LEAST[file], output[-2000:]
