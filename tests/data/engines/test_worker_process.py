import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aer_lightning.data.engines.worker_process import WorkerError, WorkerGone, WorkerProcess

HERE = str(Path(__file__).parent)


@pytest.fixture
def spawn(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", HERE)
    workers = []

    def start(environment=None, **settings) -> WorkerProcess:
        workers.append(WorkerProcess("echo_worker", settings, environment or {}))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_calls_are_answered_in_turn(spawn):
    worker = spawn()
    assert worker.call("say", [1, 2]) == ("say", [1, 2])
    assert worker.call("say", {"three": 3}) == ("say", {"three": 3})


def test_an_error_is_told_and_the_worker_goes_on(spawn):
    worker = spawn()
    with pytest.raises(WorkerError, match="KeyError: 'nothing'"):
        worker.call("raise", "nothing")
    assert worker.call("say", 1) == ("say", 1)


def test_items_of_a_stream_come_one_by_one(spawn, tmp_path):
    worker = spawn()
    items = worker.stream("count", (3, str(tmp_path / "done")))
    assert next(items) == 0
    assert not (tmp_path / "done").exists(), "the worker waits for the file before the next item"
    (tmp_path / "done").touch()
    assert list(items) == [1, 2]
    assert worker.call("say", 1) == ("say", 1)


def test_a_stream_that_is_left_does_not_disturb_the_next_command(spawn, tmp_path):
    worker = spawn()
    (tmp_path / "done").touch()
    assert next(worker.stream("count", (5, str(tmp_path / "done")))) == 0
    assert worker.call("say", 1) == ("say", 1)
    assert list(worker.stream("count", (2, str(tmp_path / "done")))) == [0, 1]


def test_a_stream_that_fails_says_why(spawn, tmp_path):
    worker = spawn()
    (tmp_path / "done").touch()
    items = worker.stream("count", (-1, str(tmp_path / "done")))
    assert next(items) == 0
    with pytest.raises(WorkerError, match="ValueError: below zero"):
        next(items)
    assert worker.call("say", 1) == ("say", 1)


def test_the_child_inherits_what_it_is_given(spawn):
    read, write = os.pipe()
    worker = WorkerProcess("echo_worker", {}, {}, (read,))
    try:
        os.write(write, b"hello")
        assert worker.call("read", read) == b"hello"
    finally:
        worker.close()
        os.close(read)
        os.close(write)


def test_a_failed_start_names_the_reason_and_shows_the_log(spawn):
    worker = spawn(fail="no such architecture")
    with pytest.raises(WorkerError, match="ValueError: no such architecture") as caught:
        worker.wait()
    assert "a line of the log" in str(caught.value)


def test_a_worker_that_ends_is_noticed(spawn):
    worker = spawn()
    with pytest.raises(WorkerError, match="exit status 3") as caught:
        worker.call("exit", 3)
    assert "last words" in str(caught.value)
    with pytest.raises(WorkerError, match="has ended"):
        worker.call("say", 1)


def test_close_ends_the_worker_and_removes_its_folder(spawn):
    worker = spawn()
    worker.wait()
    assert worker.folder.is_dir()
    worker.close()
    worker.close()
    assert not alive(worker.pid)
    assert not worker.folder.exists()


def test_the_launchers_variables_do_not_reach_the_worker(spawn, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "GONE"):
        monkeypatch.setenv(name, "1")
    worker = spawn({"NEW": "2", "GONE": None})
    environment = worker.call("environment")
    assert environment["NEW"] == "2" and environment["TMPDIR"] == str(worker.folder), "what it leaves there goes with it"
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "GONE"} & set(environment)


def test_ctrl_c_does_not_end_the_worker(spawn):
    worker = spawn()
    worker.wait()
    os.kill(worker.pid, signal.SIGINT)
    assert worker.call("say", 1) == ("say", 1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_the_worker_does_not_outlive_its_parent(how, tmp_path):
    """The parent also holds a forked child with its end of the pipe, so that a broken pipe alone would tell nothing."""
    program = (
        "import os, sys, time\n"
        "from aer_lightning.data.engines.worker_process import WorkerProcess\n"
        "worker = WorkerProcess('echo_worker', {}, {})\n"
        "worker.wait()\n"
        "sibling = os.fork()\n"
        "if not sibling:\n"
        "    os.close(1); time.sleep(60); os._exit(0)\n"
        "print(worker.pid, sibling, worker.folder, flush=True)\n"
        f"time.sleep({60 if how else 0})\n"
    )
    environment = {**os.environ, "PYTHONPATH": HERE}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as parent:
        worker, sibling, folder = parent.stdout.readline().split()
        try:
            if how:
                parent.send_signal(how)
            parent.wait(timeout=20)
            assert wait_until(lambda: not alive(int(worker)))
            assert wait_until(lambda: not Path(folder).exists())
        finally:
            os.kill(int(sibling), signal.SIGKILL)


@pytest.mark.parametrize("during", ["start", "call", "stream"])
def test_a_worker_that_is_silent_is_killed_in_time(spawn, tmp_path, during):
    worker = spawn()
    if during != "start":
        worker.wait()
    if during != "stream":
        os.kill(worker.pid, signal.SIGSTOP)  # as a debugger does, or a machine that swaps
    with pytest.raises(WorkerGone, match=r"^no answer to \w+ within 0\.5 s; the worker was killed"):
        if during == "stream":
            list(worker.stream("count", (3, str(tmp_path / "never")), seconds=0.5))
        elif during == "call":
            worker.call("say", 1, seconds=0.5)
        else:
            worker.wait(0.5)
    assert wait_until(lambda: not alive(worker.pid))


@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGKILL])
def test_a_run_whose_engine_has_gone_ends_with_one_line(spawn, sent):
    from aer_lightning.data.engines import VLLMEngine
    from aer_lightning.errors import EngineError

    engine = VLLMEngine(step_timeout=1.0, restarts=0)
    engine._worker = worker = spawn()
    worker.wait()
    assert engine._call("say", 1) == ("say", 1)
    os.kill(worker.pid, sent)
    with pytest.raises(EngineError, match=r"^data\.init_args\.engine: .*--resume auto") as caught:
        engine._call("say", 2)
    assert "\n" not in str(caught.value) and engine._worker is None and not worker.folder.exists()
