import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from aer_lightning.callbacks.rank_watch import RankWatch
from aer_lightning.errors import ConfigError

PROGRAM = """
import sys, time
from datetime import timedelta
import torch.distributed as dist
from aer_lightning.callbacks.rank_watch import RankWatch, Watch
rank, port = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=3, timeout=timedelta(seconds=120))
watch = Watch(float(sys.argv[3]))
watch.start()
dist.barrier()
print("ready", flush=True)
if sys.argv[4] == "end" and rank == 2:
    watch.end()
    sys.exit(0)
if sys.argv[4] == "collective" and rank != 2:
    callback = RankWatch()
    callback._watch = watch
    assert sorted(watch._counts) == [0, 1, 2], "of fixed size, as another thread goes through it"
    try:
        dist.barrier()
    except RuntimeError as error:
        callback.on_exception(None, None, error)
    sys.exit(3)
time.sleep(1000 if sys.argv[4] != "end" else 8)
watch.end()
"""


@pytest.fixture
def ranks():
    started = []

    def start(timeout, what):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        for rank in range(3):
            command = [sys.executable, "-c", PROGRAM, str(rank), port, str(timeout), what]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        for process in started:
            assert process.stdout.readline() == "ready\n"
        return started

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("missing", "sent"), [(1, signal.SIGSTOP), (2, signal.SIGKILL), (0, signal.SIGSTOP), (0, signal.SIGKILL)])
def test_a_rank_that_is_silent_ends_the_others_with_its_name(ranks, missing, sent):
    processes = ranks(4.0, "wait")
    os.kill(processes[missing].pid, sent)
    begun = time.monotonic()
    for rank, process in enumerate(processes):
        if rank != missing:
            assert process.wait(timeout=60) == 1
            assert f"error: rank {missing} of 3 has given no sign of life for 4 s" in process.stderr.read()
    assert time.monotonic() - begun < 60


def test_a_collective_that_a_killed_rank_broke_ends_with_that_ranks_name(ranks):
    """Its error comes at once and names nobody, long before the rank is missed."""
    processes = ranks(4.0, "collective")
    processes[2].kill()
    for process in processes[:2]:
        assert process.wait(timeout=60) == 1
        assert "error: rank 2 of 3 has given no sign of life for 4 s" in process.stderr.read()


def test_a_rank_that_ends_by_itself_is_not_missed(ranks):
    assert [process.wait(timeout=60) for process in ranks(4.0, "end")] == [0, 0, 0]


STARTER = """
import os, subprocess, sys, time
child = "import time; from aer_lightning.callbacks.rank_watch import RankWatch; RankWatch(45); print('ready', flush=True); time.sleep(99)"
subprocess.Popen([sys.executable, "-c", child], env=os.environ | {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"})
time.sleep(100)
"""


def test_a_started_rank_does_not_outlive_rank_zero_before_there_is_a_process_group():
    """It would wait in `init_process_group` for Lightning's half hour. Its output ends when it does."""
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as starter:
        assert starter.stdout.readline() == "ready\n"
        starter.kill()
        assert "rank 0 has gone before training began; rank 1 ends" in starter.communicate(timeout=30)[1]


def test_impossible_timeout():
    with pytest.raises(ConfigError, match="rank_timeout"):
        RankWatch(0.0)
