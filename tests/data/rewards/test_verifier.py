import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aer_lightning.data.rewards import Grade, MathGrader, Outcome, Verifier
from aer_lightning.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


class Echo:
    """In-process grader: right if the completion is the answer."""

    isolated = False

    def check_gold(self, answer):
        return None if answer else "empty"

    def grade(self, completion, answer):
        if completion == "raise":
            raise ValueError("odd")
        return Grade(Outcome.CORRECT if completion == answer else Outcome.WRONG, completion)


def test_a_bounded_grader_runs_here():
    with Verifier(Echo()) as verifier:
        grades = verifier.grade([("a", "a"), ("b", "a"), ("raise", "a")])
        assert [g.outcome for g in grades] == [Outcome.CORRECT, Outcome.WRONG, Outcome.ERROR]
        assert "ValueError: odd" in grades[2].reason
        assert all(g.ms > 0 for g in grades)
        assert verifier.check_golds(["a", ""]) == [None, "empty"]
        assert verifier.pool.pids() == []


def test_an_isolated_grader_runs_in_processes_that_start_at_need():
    verifier = Verifier(MathGrader(), workers=1)
    assert verifier.pool.pids() == []
    assert [g.reward for g in verifier.grade([(r"\boxed{2}", "2"), (r"\boxed{3}", "2")])] == [1, 0]
    assert len(verifier.pool.pids()) == 2
    copy = pickle.loads(pickle.dumps(verifier))
    assert (copy.pool.workers, copy.pool.pids()) == (1, [])
    verifier.close()
    assert verifier.pool.pids() == []
    assert verifier.check_golds(["2", ""])[0] is None
    verifier.close()


def test_impossible_settings_are_refused_at_once():
    with pytest.raises(ConfigError, match="workers"):
        Verifier(MathGrader(), workers=0)


def test_it_works_where_torch_is_loaded_and_under_dash_m(tmp_path):
    """The pool must not import the main module of its parent again, and must start with threads around."""
    (tmp_path / "started.py").write_text(
        textwrap.dedent("""
            import threading
            import torch
            print("main module runs")
            from aer_lightning.data.rewards import MathGrader, Verifier
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            torch.ones(64, 64) @ torch.ones(64, 64)
            with Verifier(MathGrader(), workers=2) as verifier:
                print([g.reward for g in verifier.grade([(r"\\\\boxed{2}", "2")] * 3)])
        """)
    )
    done = subprocess.run([sys.executable, "-m", "started"], capture_output=True, text=True, cwd=tmp_path, env=_env(tmp_path), timeout=180)
    assert done.stdout.splitlines() == ["main module runs", "[1.0, 1.0, 1.0]"], done.stderr


def _env(folder):
    import os

    return {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}


def test_importing_the_package_loads_no_torch_and_no_sympy():
    code = "import sys, aer_lightning.data.rewards; print([m for m in ('torch', 'lightning', 'sympy', 'math_verify') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip() == "[]"
