"""`benchmarks/chaos.py`: one trial of each kind, and the pieces that the others depend on."""

import errno
import importlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_one_trial_of_each_kind_ends_as_promised(tmp_path):
    """1.7 minutes of CPU time, two at a time; vLLM and real launchers are left to `make chaos`, and to tests of their own."""
    command = [sys.executable, str(ROOT / "benchmarks/chaos.py"), "--each", "--jobs=2", f"--folder={tmp_path}"]
    left_out = ["--without=vllm", "--without=launcher"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *left_out], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "16 trials, 0 not as promised" in done.stdout, done.stdout[-3000:]


def test_a_hundred_trials_hold_every_kind_and_a_number_is_one_trial(bench):
    trials = bench("chaos_trials")
    drawn = [trials.draw(7, n) for n in range(200)]
    assert Counter((name, setting) for name, _, setting, _ in drawn) == {(n, s): 2 * often for n, _, s, often in trials.SCENARIOS}
    again = trials.draw(7, 150)
    assert again[:3] == drawn[150][:3] and again[3].random() == drawn[150][3].random()
    assert [d[0] for d in drawn] != [trials.draw(8, n)[0] for n in range(200)]
    assert len(trials.one_of_each(7)) == len(trials.SCENARIOS)


def test_every_way_to_damage_a_checkpoint_is_seen(bench, tmp_path):
    from aer_lightning.checkpoints.folder import begin, commit, newest, verify, write_file
    from aer_lightning.errors import DataError

    damage, rng = bench("chaos_damage"), random.Random(3)
    done = Counter()
    for _ in range(60):
        partial = begin(tmp_path, 1)
        path = commit(partial, {name: write_file(partial / name, rng.randbytes(50)) for name in ("a", "b")}, {"step": 1})
        done[damage.alter(path, rng).split()[0]] += 1
        with pytest.raises(DataError, match="step-00000001"):
            verify(path)
    assert done.keys() == {"flip", "truncate", "empty", "delete", "other"}
    partial = begin(tmp_path, 2)
    whole = commit(partial, {"a": write_file(partial / "a", b"x")}, {"step": 2})
    for _ in range(9):
        foreign, said = tmp_path / "step-00000009.ckpt", []
        damage.put_foreign(foreign, whole, rng)
        assert newest(tmp_path, say=said.append)[0] == whole and len(said) == 1 and "step-00000009" in said[0]
        subprocess.run(["rm", "-r", str(foreign)], check=True)


def test_the_small_disk_is_full_as_a_disk_is(bench, tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from chaos_damage import fill, small_disk\n"
        "disk = Path(sys.argv[1])\n"
        "try: small_disk(disk, 1)\n"
        "except OSError: sys.exit(77)\n"
        "fill(disk, 8192)\n"
        "(disk / 'a').write_bytes(b'x' * 4096)\n"
        "try: (disk / 'b').write_bytes(b'x' * 100000)\n"
        "except OSError as error: print(error.errno)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, env=environment)
    if done.returncode == 77:
        pytest.skip("neither root nor user namespaces")
    assert done.stdout.strip() == str(errno.ENOSPC), done.stderr
    assert list(tmp_path.iterdir()) == [], "it was the other process's alone"


def test_the_report_counts_by_kind(bench):
    chaos = bench("chaos")
    row = {"trial": "killed", "engine": "TransformersEngine", "strategy": "DDP", "steps_again": 2, "problems": []}
    rows = [row, row | {"problems": [["hangs", "x"], ["hangs", "y"]]}, row | {"trial": "signal", "engine": "VLLMEngine"}]
    lines = chaos.table(rows).splitlines()
    assert lines[2] == "| killed | 2 transformers, DDP | 2 | 4 | 0 | 0 | 1 | 0 | 0 | 0 |"
    assert lines[3].startswith("| signal | 1 vLLM, DDP | 1 | 2 |") and lines[-1] == "| **all** |  | 3 | 6 | 0 | 0 | 1 | 0 | 0 | 0 |"


def test_the_committed_result_is_the_pages(bench):
    chaos = bench("chaos")
    facts = json.loads(chaos.RESULT.read_text())
    page = chaos.PAGE.read_text().split(chaos.MARKS[0])[1].split(chaos.MARKS[1])[0]
    assert chaos.table(facts["trials"]) in page and facts["machine"] in page
