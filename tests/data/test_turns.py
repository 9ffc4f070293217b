"""An engine that is lost in the middle of something is started again, and nobody sees it in the samples."""

from __future__ import annotations

import os
import signal

import pytest

import aer_lightning.data.turns as turns_module
from aer_lightning.data.collector import Collector
from aer_lightning.data.shaping import Shaping
from aer_lightning.errors import EngineError, EngineLost
from aer_lightning.rollout import Sizes
from tests.data.test_collector import SAMPLING, FakeEngine, FakePolicy, FakeStream, FakeTokenizer, Ranks, by_place, facts


class Mortal(FakeEngine):
    """Lost once: in the middle of a generation, of a sync, when weights are read back, or when it goes to sleep."""

    def __init__(self, dies=""):
        super().__init__()
        self.dies, self.restarted = dies, 0

    def die(self, where):
        if self.dies == where:
            self.dies, self.weight_version = "", -1
            raise EngineLost("data.init_args.engine: the worker has ended (exit status -9)")

    def restart(self):
        self.restarted += 1

    def sync_weights(self, named_weights, version):
        named_weights = iter(named_weights)
        first = next(named_weights)
        self.die("sync")
        super().sync_weights([first, *named_weights], version)
        self.needs_weights = False

    def checksums(self, names):
        self.die("checksums")
        return {}

    weight_dtype = None

    def stream(self, requests, sampling):
        for i, completion in enumerate(self.generate(requests, sampling)):
            if i == 3:
                self.die("stream")
            yield i, completion

    def sleep(self):
        self.die("sleep")
        super().sleep()
        self.needs_weights = True


@pytest.fixture
def collect(monkeypatch):
    def run(world, dies=""):
        def work(rank):
            engine, policy, stream = Mortal(dies if rank == world - 1 else ""), FakePolicy(), FakeStream()
            gathered = []
            policy.full_weights = lambda: (gathered.append(name) or (name, ranks.gather_objects(name)) for name in "abc")
            collector = Collector(engine, policy, FakeTokenizer(), run_seed=1, max_mismatch=1.0, scoring_tokens=40, sleep=True)
            sizes = Sizes(prompts=8, responses=4, steps=2, tokens=20, world_size=world)
            out = [collector.collect(stream, i, sizes, SAMPLING, Shaping(), rank) for i in range(2)]
            return out, engine, gathered

        ranks = Ranks(monkeypatch, world)
        monkeypatch.setattr(turns_module, "max_over_ranks", ranks.max_over_ranks)
        monkeypatch.setattr(turns_module, "checksum", lambda *_: "")
        return ranks.run(work)

    return run


@pytest.mark.parametrize("dies", ["stream", "sync", "checksums", "sleep"])
@pytest.mark.parametrize("world", [1, 2])
def test_the_samples_are_those_of_an_engine_that_lived(collect, capfd, world, dies):
    """Gathering the weights is a collective here: every rank has to gather them as often and as far as the others."""
    lived, died = collect(world), collect(world, dies)
    for rollout in range(2):
        a, b = (by_place([(out[rollout],) for out, *_ in results]) for results in (lived, died))
        assert list(map(facts, a)) == list(map(facts, b)) and len(a) == 32
    assert [engine.restarted for _, engine, _ in died] == [0] * (world - 1) + [1]
    assert len({tuple(gathered) for *_, gathered in died}) == 1
    assert len(died[0][2]) == (6 if dies == "sleep" else 9), "after sleep nothing but the next sync is needed"
    said = [line for line in capfd.readouterr().err.splitlines() if "started again" in line]
    assert said == ["data.init_args.engine: the worker has ended (exit status -9); it is started again, with the weights of this step"]


@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGKILL])
def test_vllms_worker_is_started_again_as_often_as_allowed(monkeypatch, sent):
    """A worker without an engine in vLLM's place."""
    from aer_lightning.data.engines import VLLMEngine
    from aer_lightning.data.engines.worker_process import WorkerProcess

    monkeypatch.setenv("PYTHONPATH", os.path.join(os.path.dirname(__file__), "engines"))
    engine = VLLMEngine(step_timeout=1.0, restarts=1)

    def start():
        engine._worker = WorkerProcess("echo_worker", {}, {})
        engine._worker.wait()

    engine._started = start
    start()
    assert engine._call("say", 1) == ("say", 1)
    os.kill(engine._worker.pid, sent)
    with pytest.raises(EngineLost):
        engine._call("say", 2)
    engine.restart()
    assert engine._call("say", 3) == ("say", 3)
    os.kill(engine._worker.pid, sent)
    with pytest.raises(EngineError, match=r"^data\.init_args\.engine: .*--resume auto") as caught:
        engine._call("say", 4)
    assert not isinstance(caught.value, EngineLost) and "\n" not in str(caught.value)
    engine.close()
