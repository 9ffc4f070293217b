"""The trials of `benchmarks/chaos.py`: what is done to a run, how it then has to end, and that it goes on to an undisturbed run's end.

Each is a function of a `Trial`, which draws its moments from the trial's own seed. It returns what it did, in a few words.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence

from chaos_damage import alter, fill, put_foreign, small_disk
from chaos_process import descendants
from chaos_rank import Fault, Moment
from chaos_trial import Trial

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def _send(signum: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


def _to_worker(command: str, signum: int, which: int = 0) -> Callable[[], None]:
    """Send a signal to a process below this one whose command has a word; 0 is the oldest."""

    def act() -> None:
        found = sorted(pid for pid, said in descendants(os.getpid()).items() if command in said)
        if found:
            os.kill(found[min(which, len(found) - 1)], signum)

    return act


# -- kills and signals -------------------------------------------------------------------------------------------------------------


def kill(trial: Trial) -> str:
    """SIGKILL of the trainer (all ranks, as a lost machine is) once to three times, at any moment, the writing of a checkpoint included."""
    times = trial.rng.choice([1, 1, 1, 2, 3])
    where = []
    for _ in range(times):
        moment = trial.moment()
        run = trial.start(faults={0: Fault(moment, _send(signal.SIGKILL), "SIGKILL")})
        if trial.setting.world > 1:
            run.wait_for("fault", trial.deadline)
            for pid in run.pids:
                if pid not in (run.pids[r] for r, s in enumerate(run.status) if s is not None):
                    os.kill(pid, signal.SIGKILL)
        ended = trial.end(run)
        if not ended.happened():
            trial.expect(ended, 0)
            break
        trial.check_kept(ended, ended.saved())
        where += [" ".join(words[1:]) for words in ended.events[0] if words[0] == "at"] or [f"{moment.at:.1f} s"]
    trial.finish()
    return f"SIGKILL x {times} at {', '.join(where)}"


def stop(trial: Trial) -> str:
    """One of the four signals, to any rank, at any moment: the run stops after its step, with a checkpoint of it."""
    signum, rank = trial.rng.choice(SIGNALS), trial.rng.randrange(trial.setting.world)
    moment = trial.moment() if rank == 0 else trial.in_training()
    ended = trial.end(trial.start(faults={rank: Fault(moment, _send(signum), signal.Signals(signum).name)}))
    if ended.happened():
        # Before the run takes over, the signal's own effect ends the process: nothing has begun.
        early = () if ended.steps() else (-signum, 0, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL)
        late = (0,) if "Trainer.fit` stopped" in ended.said[0] else ()
        for r in range(trial.setting.world):
            trial.expect(ended, (128 + signum, *early, *late), rank=r)
        if ended.steps() and ended.status[0] == 128 + signum:
            trial.expect(
                ended, 128 + signum, f"stopped by {signal.Signals(signum).name} after {ended.steps()} optimizer steps; checkpoint "
            )
        trial.check_kept(ended, ended.steps())
    trial.finish()
    return f"{signal.Signals(signum).name} to rank {rank}"


def stop_twice(trial: Trial) -> str:
    """A second signal shortly after the first: the process ends at once, and a kill's promise holds."""
    first, second = trial.rng.choice(SIGNALS), trial.rng.choice(SIGNALS)
    delay = trial.rng.uniform(0, 0.2)

    def act() -> None:
        timer = threading.Timer(delay, _send(second))
        timer.daemon = True
        timer.start()
        os.kill(os.getpid(), first)

    ended = trial.end(trial.start(faults={0: Fault(trial.in_training(), act, "two signals")}))
    if ended.happened():
        # The second may come when the run has ended and given the signals back.
        trial.expect(ended, (128 + first, 128 + second, -second, 0))
        trial.check_kept(ended, ended.saved())
    trial.finish()
    return f"{signal.Signals(first).name}, {signal.Signals(second).name} {delay:.2f} s later"


# -- ranks and workers ---------------------------------------------------------------------------------------------------------------


def lose_rank(trial: Trial) -> str:
    """SIGKILL or SIGSTOP of one rank: the others end by themselves and name it."""
    rank, signum = trial.rng.randrange(trial.setting.world), trial.rng.choice([signal.SIGKILL, signal.SIGSTOP])
    run = trial.start(faults={rank: Fault(trial.in_training(), _send(signum), signal.Signals(signum).name)})
    run.wait_for("fault", trial.deadline, rank)
    begun = time.monotonic()
    ended = trial.end(run, without=frozenset({rank}))
    if ended.happened():
        other = 1 - rank
        trial.expect(ended, 1, f"rank {rank} of 2 has given no sign of life", other)
        if (took := time.monotonic() - begun) > 60:
            trial.report("hangs", f"rank {other} ended {took:.0f} s after rank {rank} was lost")
        trial.check_kept(ended, ended.saved() if rank == 0 or signum == signal.SIGSTOP else 0)
    trial.finish()
    return f"{signal.Signals(signum).name} of rank {rank}"


def lose_verifier(trial: Trial) -> str:
    """SIGKILL or SIGSTOP of a verifier's worker, or SIGKILL of the process that forks them: the run goes on as if nothing had been."""
    which = trial.rng.randrange(3)  # 0 is the process that forks the others
    signum = signal.SIGKILL if which == 0 else trial.rng.choice([signal.SIGKILL, signal.SIGSTOP])
    ended = trial.end(trial.start(faults={0: Fault(trial.in_training(), _to_worker("rewards.worker", signum, which), "verifier")}))
    trial.expect(ended, 0)
    if ended.status == [0]:
        trial.compare()
    return f"{signal.Signals(signum).name} of verifier process {which}"


def lose_vllm(trial: Trial) -> str:
    """SIGKILL or SIGSTOP of vLLM's worker: it is started once more and the run's end is the same; with no restart left, one line."""
    signum, restarts = trial.rng.choice([signal.SIGKILL, signal.SIGSTOP]), trial.rng.choice([1, 1, 0])
    fault = Fault(trial.in_training(), _to_worker("vllm_worker", signum), "vllm worker")
    ended = trial.end(trial.start(f"--data.init_args.engine.init_args.restarts={restarts}", faults={0: fault}))
    if restarts:
        trial.expect(ended, 0, "is started again, with the weights of this step")
        if ended.status == [0]:
            trial.compare()
    else:
        trial.expect(ended, 2, "error: data.init_args.engine: ")
        trial.check_kept(ended, ended.saved())
        trial.finish()
    return f"{signal.Signals(signum).name} of vLLM's worker, restarts {restarts}"


# -- files -----------------------------------------------------------------------------------------------------------------------------


def full_disk(trial: Trial) -> str:
    """The disk is full from some moment on: for a while, and the run gets over it by itself; or for good, and it ends with one line."""
    disk = trial.folder / "disk"
    disk.mkdir()
    small_disk(disk)
    trial.run_dir = disk / "run"
    leave, seconds = trial.rng.choice([0, 0, 4 << 10, 1 << 20, 6 << 20]), trial.rng.choice([0.3, 1.5, None])

    def act() -> None:
        fill(disk, leave)
        if seconds is not None:
            timer = threading.Timer(seconds, (disk / "ballast").unlink)
            timer.daemon = True
            timer.start()

    ended = trial.end(trial.start(faults={0: Fault(trial.in_training(), act, "full")}))
    if ended.status == [0] and (seconds is not None or not ended.happened()):
        trial.compare()
    else:
        trial.expect(ended, 2, "No space left on device")
    trial.check_kept(ended, ended.saved())
    (disk / "ballast").unlink(missing_ok=True)
    trial.finish()
    return f"full disk {'for good' if seconds is None else f'for {seconds} s'}, {leave >> 10} KiB left"


def damage(trial: Trial) -> str:
    """One or all checkpoints of a run that was killed are altered: each is named, and the run goes on from the one before, or starts."""
    from aer_lightning.checkpoints.folder import checkpoints

    at = Moment("step", trial.setting.updates - trial.rng.choice([0, 1]), 0.2)
    ended = trial.end(trial.start(faults={0: Fault(at, _send(signal.SIGKILL), "SIGKILL")}))
    found = checkpoints(trial.run_dir / "checkpoints")
    count = trial.rng.choice([1, 1, 1, len(found)])
    done = [alter(path, trial.rng) for path in found[:count]]
    if trial.rng.random() < 0.3:
        foreign = trial.run_dir / "checkpoints" / f"step-{trial.rng.randint(5, 99):08d}.ckpt"
        done.append(put_foreign(foreign, found[-1], trial.rng))
        found.insert(0, foreign)
    resumed = trial.end(trial.start())
    trial.expect(resumed, 0)
    passed = sum(line.startswith("passed over: ") for line in resumed.said[0].splitlines())
    if passed != len(done):
        trial.report("unclear ends", f"{passed} checkpoints were passed over, {len(done)} are damaged ({', '.join(done)})")
    if resumed.status == [0]:
        trial.compare()
    trial.lost += ended.steps() - min(ended.steps(), ended.saved())
    return ", ".join(done)


def vanish(trial: Trial) -> str:
    """The folder of checkpoints disappears while the run goes on: the next save makes it anew, and the run ends as it would have."""

    def act() -> None:
        shutil.rmtree(trial.run_dir / "checkpoints", ignore_errors=True)

    ended = trial.end(trial.start(faults={0: Fault(trial.in_training(), act, "vanished")}))
    trial.expect(ended, 0)
    if ended.status == [0]:
        trial.compare()
    return "the folder of checkpoints vanished"


Scenario = Callable[[Trial], str]
# (name, what is done, setting, how often in a hundred trials); the report counts by name.
SCENARIOS: list[tuple[str, Scenario, str, int]] = [
    ("killed", kill, "countdown", 18),
    ("killed", kill, "workers", 7),
    ("killed", kill, "ddp", 3),
    ("killed", kill, "fsdp2", 3),
    ("killed", kill, "launcher", 1),
    ("killed", kill, "vllm", 1),
    ("signal", stop, "countdown", 12),
    ("signal", stop, "workers", 5),
    ("signal", stop, "ddp", 3),
    ("signal", stop, "fsdp2", 3),
    ("signal", stop, "launcher", 1),
    ("signal", stop, "vllm", 1),
    ("second signal", stop_twice, "countdown", 3),
    ("second signal", stop_twice, "workers", 2),
    ("rank lost", lose_rank, "ddp", 4),
    ("rank lost", lose_rank, "fsdp2", 4),
    ("verifier lost", lose_verifier, "workers", 7),
    ("vLLM lost", lose_vllm, "vllm", 2),
    ("full disk", full_disk, "countdown", 8),
    ("altered checkpoint", damage, "countdown", 10),
    ("vanished folder", vanish, "countdown", 2),
]
DECK = [place for place, entry in enumerate(SCENARIOS) for _ in range(entry[3])]


def draw(seed: int, number: int) -> tuple[str, Scenario, str, random.Random]:
    """(name, what is done, setting, generator) of a trial; depends on the seed and its number alone.

    Every hundred trials are the scenarios as often as they say, in an order of their own.
    """
    deck = DECK.copy()
    random.Random(f"{seed}/deck{number // len(deck)}").shuffle(deck)
    name, scenario, setting, _ = SCENARIOS[deck[number % len(deck)]]
    return name, scenario, setting, random.Random(f"{seed}/{number}")


def one_of_each(seed: int, without: Sequence[str] = ()) -> list[int]:
    """The first trial of each scenario and setting."""
    first: dict[tuple[str, str], int] = {}
    for number in range(len(DECK)):
        name, _, setting, _ = draw(seed, number)
        if setting not in without:
            first.setdefault((name, setting), number)
    return list(first.values())
