"""Optimizers by class path whose states are small; see docs/memory.md."""

import pytest
import torch

from aer_lightning.callbacks import FixedCoefficient
from aer_lightning.callbacks.checkpoint import RolloutCheckpoint
from aer_lightning.checkpoints.folder import checkpoints


def test_an_8_bit_optimizer_trains_and_resumes_exactly(runs, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from tests.conftest import build_model

    folder = build_model("qwen3", tmp_path / "model", hidden_size=64, intermediate_size=128)  # states of 4,096 elements and more are 8-bit

    def module():
        return runs.module(pretrained=str(folder), optimizer=lambda params: bitsandbytes.optim.AdamW8bit(params, lr=1e-3))

    def data():
        return runs.data(rollouts_per_epoch=4)

    trainer, whole, _ = runs.fit([FixedCoefficient(0.5)], data=data(), module=module())
    dtypes = {t.dtype for s in trainer.optimizers[0].state.values() for n, t in s.items() if n in ("state1", "state2")}
    assert dtypes == {torch.uint8, torch.float32}
    runs.fit([FixedCoefficient(0.5), RolloutCheckpoint(every_n_rollouts=1, keep_last=9)], data=data(), module=module())
    path = checkpoints(tmp_path / "checkpoints")[2]
    _, resumed, _ = runs.fit([FixedCoefficient(0.5), RolloutCheckpoint()], data=data(), module=module(), ckpt_path=path)
    assert path.name == "step-00000002.ckpt"
    state = resumed.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())
