import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from answers import SLOW_BOMB

from aer_lightning.data.rewards import MathGrader, Outcome, VerifierError, VerifierPool
from aer_lightning.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
HELPERS = str(Path(__file__).parent)


def alive(pid):
    """False also for a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def gone(pids, seconds=10.0):
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(MathGrader(), workers=2, timeout_s=2.0) as pool:
        yield pool


@pytest.fixture
def odd():
    """A pool around a grader that does what its completion says."""
    from odd_grader import OddGrader

    with VerifierPool(OddGrader(), workers=2, timeout_s=1.0, memory_mb=512) as pool:
        yield pool


def test_verdicts_come_back_in_order(pool):
    grades = pool.grade([(rf"\boxed{{{i % 5}}}", str(i % 3)) for i in range(200)])
    assert [g.reward for g in grades] == [float(i % 5 == i % 3) for i in range(200)]
    assert [g.extracted for g in grades] == [str(i % 5) for i in range(200)]
    assert pool.grade([]) == []


def test_gold_answers_are_checked_in_the_workers(pool):
    assert [reason is None for reason in pool.check_golds(["42", "", r"\frac{1}{", r"\sqrt{2}"])] == [True, False, False, True]


def test_a_bomb_costs_its_own_worker_only(pool):
    nursery, *before = pool.pids()
    items = [(SLOW_BOMB if i in (3, 11) else rf"\boxed{{{i}}}", str(i)) for i in range(40)]
    start = time.monotonic()
    grades = pool.grade(items)
    assert time.monotonic() - start < 2 * 2.0 + 10
    assert {i for i, g in enumerate(grades) if g.outcome is Outcome.TIMEOUT} == {3, 11}
    assert all(g.reward == 1 for i, g in enumerate(grades) if i not in (3, 11))
    assert all(2000 <= grades[i].ms < 3000 for i in (3, 11))
    assert sum(g.ms < 500 for g in grades) == 38  # none of the others waited for a bomb
    assert gone(before)
    assert pool.pids()[0] == nursery


def test_more_bombs_than_workers(odd):
    start = time.monotonic()
    grades = odd.grade([("sleep", 0)] * 6 + [("right", 0)] * 20)
    assert time.monotonic() - start < 6 * 1.0 / 2 + 5
    assert [g.outcome for g in grades] == [Outcome.TIMEOUT] * 6 + [Outcome.CORRECT] * 20


def test_crashes_memory_and_exceptions_are_errors_of_one_answer(odd):
    commands = ["right", "memory", "segfault", "exit", "raise", "deep", "print", "wrong"]
    grades = dict(zip(commands, odd.grade([(command, 0) for command in commands]), strict=True))
    assert {c: g.outcome for c, g in grades.items() if g.outcome is not Outcome.ERROR} == {
        "right": Outcome.CORRECT,
        "print": Outcome.CORRECT,
        "wrong": Outcome.WRONG,
    }
    assert "memory" in grades["memory"].reason
    assert "died" in grades["segfault"].reason
    assert "KeyError" in grades["raise"].reason
    assert "Recursion" in grades["deep"].reason


def test_workers_know_nothing_of_torch(odd):
    assert odd.grade([("torch?", 0)])[0].extracted == "no"


def test_workers_do_not_inherit_the_parents_files_or_console(odd, tmp_path):
    (tmp_path / "open").write_text("x")
    with (tmp_path / "open").open() as handle:
        os.set_inheritable(handle.fileno(), True)
        odd.close()
        assert odd.grade([("files", 0)])[0].extracted.count("open") == 0


def test_idle_workers_and_the_nursery_are_replaced_when_they_die(pool):
    for victim in (pool.pids()[1:], pool.pids()[:1]):
        for pid in victim:
            os.kill(pid, signal.SIGKILL)
        assert gone(victim)
        assert [g.reward for g in pool.grade([(r"\boxed{1}", "1")] * 10)] == [1.0] * 10


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_an_answer_whose_worker_is_lost_is_given_to_another(odd, sent):
    """Killed by the kernel when memory is short, or stopped: what the answer is worth does not depend on it."""
    odd.start()
    before = odd.pids()[1:]

    def lose():
        for pid in before:
            os.kill(pid, sent)

    timer = threading.Timer(0.3, lose)
    timer.start()
    grades = odd.grade([("doze", 0)] * 2 + [("right", 0)] * 3)
    timer.join()
    assert [g.outcome for g in grades] == [Outcome.CORRECT] * 5 and gone(before)


def test_threads_may_share_a_pool(pool):
    results = {}

    def work(k):
        results[k] = [g.reward for g in pool.grade([(rf"\boxed{{{k}}}", str(j)) for j in range(30)])]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {k: [float(j == k) for j in range(30)] for k in range(6)}


def test_it_outlives_the_thread_that_started_it():
    pool = VerifierPool(MathGrader(), workers=1, timeout_s=5.0)
    thread = threading.Thread(target=pool.start)
    thread.start()
    thread.join()
    pids = pool.pids()
    assert pool.grade([(r"\boxed{1}", "1")])[0].reward == 1
    assert pool.pids()[0] == pids[0]
    pool.close()


def test_close_leaves_nothing_and_can_be_repeated():
    pool = VerifierPool(MathGrader(), workers=2)
    pool.close()
    pool.start()
    pool.grade([(r"\boxed{1}", "1")] * 4)
    pids = pool.pids()
    assert len(pids) == 3
    pool.start()
    assert pool.pids()[0] == pids[0]
    pool.close()
    pool.close()
    assert gone(pids)
    assert pool.pids() == []
    assert pool.grade([(r"\boxed{1}", "1")])[0].reward == 1  # and starts again at need
    pool.close()


@pytest.mark.parametrize("how", ["kill", "exit", "exception", "busy"])
def test_nothing_survives_the_parent(how, tmp_path):
    script = f"""
        import os, signal, sys, threading, time
        sys.path.insert(0, {HELPERS!r})
        from odd_grader import OddGrader
        from aer_lightning.data.rewards import VerifierPool
        pool = VerifierPool(OddGrader(), workers=2, timeout_s=60.0)
        pool.grade([("right", 0)] * 8)
        print(*pool.pids(), flush=True)
        how = {how!r}
        if how == "busy":
            threading.Thread(target=pool.grade, args=([("sleep", 0)] * 2,), daemon=True).start()
            time.sleep(0.5)
        if how in ("kill", "busy"):
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exception":
            raise RuntimeError
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=ROOT, timeout=120)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 3, done.stderr
    assert gone(pids)


def test_a_forked_child_has_workers_of_its_own(pool):
    pool.start()
    mine = pool.pids()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        verdict = b"?"
        try:
            grades = pool.grade([(r"\boxed{1}", "1"), (r"\boxed{2}", "1")])
            verdict = b"y" if [g.reward for g in grades] == [1, 0] and pool.pids()[0] != mine[0] else b"n"
            pool.close()
        finally:
            os.write(write, verdict)
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"y"
    assert all(map(alive, mine))
    assert pool.grade([(r"\boxed{1}", "1")])[0].reward == 1


def test_an_interrupt_leaves_the_pool_usable(odd):
    def interrupt():
        time.sleep(0.4)
        os.kill(os.getpid(), signal.SIGINT)

    # A process started in the background of a shell ignores SIGINT from birth; a user's terminal does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            odd.grade([("sleep", 0)] * 4)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert [g.outcome for g in odd.grade([("right", 0), ("wrong", 0)])] == [Outcome.CORRECT, Outcome.WRONG]


def test_impossible_settings_and_graders_are_refused():
    for name, value in (("workers", 0), ("timeout_s", 0), ("memory_mb", 8)):
        with pytest.raises(ConfigError, match=name):
            VerifierPool(MathGrader(), **{name: value})

    class Local:
        isolated = True

    with pytest.raises(ConfigError, match="cannot be sent"):
        VerifierPool(Local()).start()


def test_a_grader_that_cannot_be_loaded_is_reported_with_its_error():
    from odd_grader import Unloadable

    with pytest.raises(VerifierError, match="there is no such device"):
        VerifierPool(Unloadable()).start()


def test_lone_surrogates_and_long_texts_arrive(pool):
    grades = pool.grade([("\ud800 \\boxed{1}", "1"), ("x" * 3_000_000 + r"\boxed{1}", "1")])
    assert [g.reward for g in grades] == [1.0, 1.0]
