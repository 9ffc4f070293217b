import pytest

from aer_lightning.cli_loggers import place_files, wandb_id


def placed(root, **given):
    logger = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": dict(given)}
    place_files({"name": "n", "trainer": {"logger": logger}}, root)
    return logger["init_args"]


def test_a_run_that_goes_on_is_the_same_run_at_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    first = placed(tmp_path / "a")["id"]
    assert placed(tmp_path / "a")["id"] == first == wandb_id(tmp_path / "a")
    assert placed(tmp_path / "b")["id"] != first
    assert placed(tmp_path / "a", id="mine")["id"] == "mine"
