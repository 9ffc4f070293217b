import os
import shlex
import signal
import threading
import time
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from aer_lightning.callbacks import FixedCoefficient
from aer_lightning.callbacks.checkpoint import RolloutCheckpoint
from aer_lightning.callbacks.graceful_stop import GracefulStop, requeue, resume_command
from aer_lightning.checkpoints.folder import checkpoints, read_manifest
from aer_lightning.errors import ConfigError
from aer_lightning.signals import REQUEST, SIGNALS, Stopped


class Kill(pl.Callback):
    """Sends this process a signal in a hook of the given optimizer step."""

    def __init__(self, signum, step=2, hook="on_train_batch_start"):
        self.signum, self.step, self.hook = signum, step, hook

    def on_train_batch_start(self, trainer, *_):
        if self.hook == "on_train_batch_start" and trainer.global_step == self.step - 1:
            os.kill(os.getpid(), self.signum)

    def on_train_start(self, trainer, *_):
        if self.hook == "on_train_start":
            os.kill(os.getpid(), self.signum)


def stopping(runs, *callbacks, grace=60.0, ckpt=None, **kwargs):
    save, stop = RolloutCheckpoint(every_n_rollouts=100), GracefulStop(grace)
    return runs.fit([FixedCoefficient(0.1), *callbacks, save, stop], max_epochs=2, ckpt_path=ckpt, **kwargs)


@pytest.fixture(autouse=True)
def _handlers():
    outside = {s: signal.signal(s, signal.SIG_DFL) for s in SIGNALS}  # what starts the tests may ignore one, as nohup does
    before = {s: signal.getsignal(s) for s in SIGNALS}
    yield
    found = {s: signal.signal(s, handler) for s, handler in outside.items()}
    assert found == before, "handlers are given back"
    assert not [t for t in threading.enumerate() if t.name == "graceful-stop"]


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(runs, tmp_path, signum):
    with pytest.raises(Stopped) as stopped:
        stopping(runs, Kill(signum))
    (newest, _) = checkpoints(tmp_path / "checkpoints")
    assert read_manifest(newest)["step"] == 2
    assert stopped.value.status == 128 + signum
    first, how = str(stopped.value).splitlines()
    assert signum.name in first and str(newest) in first and "--resume auto" in how and f"--run_dir {tmp_path}" in how
    if signum == signal.SIGTERM:
        _, module, _ = stopping(runs, ckpt=newest)
        _, whole, _ = stopping(runs)
        assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in module.state_dict().items())


def test_before_training_it_stops_at_once(runs, tmp_path):
    with pytest.raises(Stopped, match="no checkpoint yet") as stopped:
        stopping(runs, Kill(signal.SIGTERM, hook="on_train_start"))
    assert stopped.value.status == 143 and not (tmp_path / "checkpoints").exists()


def test_a_generation_within_the_grace_is_waited_for(runs, tmp_path):
    from aer_lightning.data.engines import TransformersEngine

    class Slow(TransformersEngine):
        calls = 0

        def stream(self, requests, sampling):
            self.calls += 1
            if self.calls == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.3)
            return super().stream(requests, sampling)

    with pytest.raises(Stopped):
        stopping(runs, data=runs.data(engine=Slow()))
    assert read_manifest(checkpoints(tmp_path / "checkpoints")[0])["step"] == 2, "the step that the generation was for"


def test_lightning_installs_no_handlers(runs):
    seen = []

    class Look(pl.Callback):
        def on_train_batch_start(self, *_):
            seen.append([signal.getsignal(s) for s in SIGNALS])

    stopping(runs, Look())
    assert all(handlers == [REQUEST._handle] * len(SIGNALS) for handlers in seen)


def test_the_command_that_goes_on(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["x", "fit", "-c", "a b.yaml", "--resume", "auto", "--name=n", "--run_dir", "old", "--k=1"])
    words = shlex.split(resume_command(tmp_path))
    assert words == [*["python", "-m", "aer_lightning", "fit", "-c"], "a b.yaml", "--k=1", "--run_dir", str(tmp_path), "--resume", "auto"]


@pytest.mark.parametrize("array", [False, True])
def test_slurm_gets_the_job_again(monkeypatch, tmp_path, array):
    def trainer(environment):
        return SimpleNamespace(_accelerator_connector=SimpleNamespace(cluster_environment=environment))

    slurm = trainer(SLURMEnvironment(auto_requeue=True, requeue_signal=signal.SIGUSR1))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requeue(trainer(LightningEnvironment()), signal.SIGUSR1) is None and requeue(slurm, signal.SIGTERM) is None
    assert "no scontrol" in requeue(slurm, signal.SIGUSR1)
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    job = "16_3" if array else "17"
    assert requeue(slurm, signal.SIGUSR1) == f"SLURM: job {job} is requeued"
    assert (tmp_path / "asked").read_text() == f"requeue {job}\n"


def test_negative_grace():
    with pytest.raises(ConfigError, match="stop_grace"):
        GracefulStop(-1)
