import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from aer_lightning import FixedCoefficient, PolicyModule
from aer_lightning.modules.adapters import Lora


@pytest.mark.parametrize("lora", [None, Lora(r=2, targets=["q_proj", "v_proj"])], ids=["full", "lora"])
def test_the_model_of_a_checkpoint(runs, random_model, tmp_path, lora):
    if lora is not None:
        pytest.importorskip("peft")
    module = runs.module(lora=lora)
    _, trained, _ = runs.fit([FixedCoefficient(0.5), ModelCheckpoint(dirpath=tmp_path, filename="c")], module=module)
    loaded = PolicyModule.load_from_checkpoint(tmp_path / "c.ckpt", map_location="cpu", weights_only=True)
    assert loaded.pretrained == str(random_model) and loaded.lora == lora and loaded.weight_version == 2
    weights, expected = dict(loaded.full_weights()), dict(trained.full_weights())
    assert weights.keys() == expected.keys() and all(torch.equal(weights[k], expected[k]) for k in expected)
    start = runs.module(lora=lora)
    start.configure_model()
    assert not all(torch.equal(a, b) for a, b in zip(dict(start.full_weights()).values(), expected.values(), strict=True))
