"""What processes agree on before a process group exists. Real launchers are in tests/integration/test_nodes.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

CODE = """
import os, sys
from aer_lightning.cli import run_dir
from aer_lightning.errors import ConfigError
try:
    print(run_dir(sys.argv[1] if len(sys.argv) > 1 else None, "x"))
except ConfigError as error:
    print("error:", error)
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launched(tmp_path, environments, *arguments):
    """The output of one process for each environment, all at once."""
    code = tmp_path / "code.py"
    code.write_text(CODE)
    path = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
    processes = [
        subprocess.Popen(
            [sys.executable, str(code), *arguments], env=os.environ | {"PYTHONPATH": path} | e, cwd=tmp_path, stdout=-1, text=True
        )
        for e in environments
    ]
    return [p.communicate(timeout=120)[0].strip() for p in processes]


def slurm(port):
    common = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7"}
    common |= {"SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(port)}
    return [common | {"SLURM_PROCID": str(i), "SLURM_LOCALID": "0", "SLURM_NODEID": str(i)} for i in range(2)]


def by_hand(port):
    return [{"NODE_RANK": str(i), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} for i in range(2)]


@pytest.mark.parametrize("launcher", [slurm, by_hand])
def test_all_ranks_take_the_folder_of_rank_zero(tmp_path, launcher):
    first, second = launched(tmp_path, launcher(free_port()))
    assert first.startswith("runs/x/") and second == str(tmp_path / first)


def test_what_rank_zero_refuses_stops_the_others(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    first, second = launched(tmp_path, slurm(free_port()), "taken")
    assert first.startswith("error: run_dir: taken exists") and second.startswith("error: rank 0: run_dir: taken exists")


def test_a_job_script_that_lightning_refuses_gets_one_line(tmp_path):
    wrong = [{k: v for k, v in e.items() if k != "SLURM_NTASKS_PER_NODE"} for e in slurm(free_port())]
    assert all(out.startswith("error: SLURM: ") and "--ntasks-per-node=2" in out for out in launched(tmp_path, wrong))


def test_one_process_asks_nobody(monkeypatch):
    from aer_lightning.launch import agree, cluster, process_rank

    for name in ("NODE_RANK", "LOCAL_RANK", "RANK", "SLURM_NTASKS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert cluster() is None and process_rank() == 0 and agree("x", lambda: "here") == "here"
    monkeypatch.setenv("NODE_RANK", "3")
    assert process_rank() == 3
