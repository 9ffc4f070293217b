"""What processes agree on before a process group exists. Real launchers are in tests/integration/test_nodes.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from aer_lightning.checkpoints.folder import begin, commit

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


def launched(tmp_path, environments, *arguments, program=CODE):
    """The output of one process for each environment, all at once; its rank stands for ``{}`` in the arguments."""
    code = tmp_path / "code.py"
    code.write_text(program)
    path = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
    processes = [
        subprocess.Popen(
            [sys.executable, str(code), *(a.format(rank) for a in arguments)],
            env=os.environ | {"PYTHONPATH": path} | e,
            cwd=tmp_path,
            stdout=-1,
            text=True,
        )
        for rank, e in enumerate(environments)
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


RESUME = """
import sys
from jsonargparse import Namespace
from aer_lightning import resume_options
from aer_lightning.errors import ConfigError
from aer_lightning.launch import process_rank
resume_options.configuration = lambda config: {}
trainer, none = Namespace(default_root_dir=None), dict.fromkeys(["ckpt_path", "allow_changes"])
config = Namespace(trainer=trainer, run_dir=sys.argv[1], name="x", resume="auto", **none)
try:
    found = resume_options.find("fit", config, process_rank())
    print(found.folder, found.checkpoint, found.step)
except ConfigError as error:
    print("error:", error)
"""


def torchrun(port):
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
    common |= {"TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "0", "ROLE_RANK": "0", "ROLE_WORLD_SIZE": "2"}
    return [common | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(2)]


@pytest.mark.parametrize("launcher", [torchrun, slurm])
def test_all_ranks_go_on_from_the_checkpoint_of_rank_zero(tmp_path, launcher):
    """The second rank would find a newer one, as if it had appeared after rank zero had looked."""
    for rank, steps in enumerate([(1,), (1, 2)]):
        for step in steps:
            partial = begin(tmp_path / f"run{rank}" / "checkpoints", step)
            commit(partial, {}, {"step": step, "configuration": {}})
    first, second = launched(tmp_path, launcher(free_port()), "run{}", program=RESUME)
    run = tmp_path / "run0"
    assert first == second == f"{run} {run / 'checkpoints' / 'step-00000001.ckpt'} 1"


LATE = """
import sys, time
from aer_lightning.launch import agree, process_rank
time.sleep(2 * process_rank())
print(agree("answer", lambda: "complete", timeout=20))
"""


def test_an_answer_outlives_rank_zeros_work_until_all_have_read_it(tmp_path):
    """As when a run that is complete is started again, and rank zero has nothing left to do before the other has started."""
    assert launched(tmp_path, slurm(free_port()), program=LATE) == ["complete", "complete"]


SLOW = """
import time
from pathlib import Path
from aer_lightning import launch
from aer_lightning.errors import ConfigError
launch.READ_TIMEOUT = 0.0
def decide():
    end = time.monotonic() + 60
    while not Path("given_up").exists() and time.monotonic() < end:
        time.sleep(0.1)
    return "late"
try:
    print(launch.agree("answer", decide, timeout=0.5))
except ConfigError as error:
    print("error:", error)
    Path("given_up").touch()
"""


def test_a_rank_that_gets_no_answer_in_time_says_so(tmp_path):
    first, second = launched(tmp_path, slurm(free_port()), program=SLOW)
    assert first == "late" and second.startswith("error: rank 1: rank 0 gave no answer within 0.5 s (answer)")


def test_rank_zero_has_time_to_read_a_checkpoint_of_real_size(tmp_path, monkeypatch):
    from jsonargparse import Namespace

    from aer_lightning import resume_options

    asked = {}
    monkeypatch.setattr(resume_options, "agree", lambda key, decide, timeout=300.0: asked.update({key: timeout}) or os.pathsep)
    monkeypatch.setenv(resume_options.RESUMED_VARIABLE, "")
    resume_options._choose(resume_options.Resumption(), Namespace(), 0)
    assert asked == {"resume": 1800.0}


UNWRITABLE = """
import sys
from types import SimpleNamespace
from aer_lightning.cli import AERCommandLine
from aer_lightning.errors import ConfigError
from aer_lightning.resume_options import Resumption
line = SimpleNamespace(config=None, resumption=Resumption(), _get=lambda config, key: {"default_root_dir": sys.argv[1]})
try:
    AERCommandLine.instantiate_classes(line)
except ConfigError as error:
    print("error:", error)
"""


def test_a_folder_that_rank_zero_cannot_write_ends_all_ranks(tmp_path):
    (tmp_path / "root0").write_text("")
    first, second = launched(tmp_path, slurm(free_port()), "root{}/run", program=UNWRITABLE)
    assert first.startswith("error: trainer.default_root_dir: root0/run cannot be written")
    assert second == first.replace("error: ", "error: rank 0: ", 1)


CHECKPOINT = """
import sys
from jsonargparse import Namespace
from aer_lightning import resume_options
from aer_lightning.errors import UserError
from aer_lightning.launch import process_rank
resume_options.configuration = lambda config: {}
try:
    resume_options.find("fit", Namespace(ckpt_path=sys.argv[1], resume=None, allow_changes=None), process_rank())
except UserError as error:
    print("error:", error)
"""


def test_a_checkpoint_that_rank_zero_refuses_ends_all_ranks(tmp_path):
    first, second = launched(tmp_path, slurm(free_port()), "nothing", program=CHECKPOINT)
    assert first.startswith("error: ") and second == first.replace("error: ", "error: rank 0: ", 1)
