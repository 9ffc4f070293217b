"""With vLLM on a CPU too, a resumed run is the uninterrupted run bit for bit: samples, their log-probabilities, and weights."""

from __future__ import annotations

import os
import signal

import lightning.pytorch as pl
import pytest
import torch

from aer_lightning.callbacks import EntropyAnchor, GlobalCoefficient
from aer_lightning.callbacks.checkpoint import RolloutCheckpoint
from tests.conftest import build_model

pytest.importorskip("vllm")


class Samples(pl.Callback):
    """What every rollout sampled, and with which log-probabilities."""

    def __init__(self):
        self.rollouts = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        drawn = [(s.prompt_id, s.index, tuple(s.token_ids), tuple(s.behaviour_logprob.tolist())) for s in batch.samples]
        self.rollouts[batch.info.index] = drawn


def killed_once():
    """vLLM whose worker is killed when the first completion of the second rollout has come."""
    from aer_lightning.data.engines import VLLMEngine

    class Killed(VLLMEngine):
        calls = 0

        def stream(self, requests, sampling):
            self.calls += 1
            for i, item in enumerate(super().stream(requests, sampling)):
                if self.calls == 2 and i == 1:
                    os.kill(self._worker.pid, signal.SIGKILL)
                yield item

    return Killed


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(1200)  # four starts of vLLM
@pytest.mark.skipif(torch.cuda.is_available(), reason="only the CPU promises it without batch invariance")
def test_resume_and_a_worker_started_again_equal_no_interruption(runs, tmp_path, capfd):
    from aer_lightning.data.engines import VLLMEngine

    # vLLM's attention on a CPU knows no heads as small as the fixture's
    runs.model = build_model("llama", tmp_path / "model", hidden_size=128)

    def run(folder, path=None, engine=VLLMEngine):
        samples = Samples()
        keep = RolloutCheckpoint(every_n_rollouts=1, keep_last=100)
        data = runs.data(engine=engine(kv_cache_gib=0.125, max_num_seqs=6), rollouts_per_epoch=3)
        stack = [EntropyAnchor(tau=1.5), GlobalCoefficient(kp=0.3, ki=0.1), samples, keep]
        _, module, _ = runs.fit(stack, data=data, default_root_dir=str(folder), ckpt_path=path)
        return samples.rollouts, dict(module.full_weights())

    whole, expected = run(tmp_path / "whole")
    resumed, weights = run(tmp_path / "resumed", tmp_path / "whole/checkpoints/step-00000001.ckpt")
    assert sorted(whole) == [0, 1, 2] and sorted(resumed) == [1, 2]
    assert resumed == {index: whole[index] for index in resumed}
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in expected)
    assert "started again" not in capfd.readouterr().err
    again, weights = run(tmp_path / "killed", engine=killed_once())
    assert again == whole and all(torch.equal(weights[name], expected[name]) for name in expected)
    assert "is started again, with the weights of this step" in capfd.readouterr().err
