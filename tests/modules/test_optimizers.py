"""Optimizers by class path whose states are small; see docs/memory.md."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from aer_lightning.callbacks import FixedCoefficient


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
    keep = ModelCheckpoint(tmp_path / "checkpoints", every_n_train_steps=2, save_top_k=-1)
    runs.fit([FixedCoefficient(0.5), keep], data=data(), module=module())
    path = next(p for p in (tmp_path / "checkpoints").iterdir() if "step=2" in p.name)
    _, resumed, _ = runs.fit([FixedCoefficient(0.5)], data=data(), module=module(), ckpt_path=path)
    state = resumed.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())
