"""Every logger by a real run: the run's own files are the same with all of them, in one folder, and all get the whole configuration."""

from __future__ import annotations

import json
import sqlite3

import pytest
import yaml

from aer_lightning.cli_loggers import hyperparameters
from aer_lightning.reporting.run_metrics import read_rows

OWN = {"config.yaml", "metrics.csv", "samples.jsonl", "evaluation.jsonl", "curves.png", "summary.json", "checkpoints"}
TAU = "trainer/callbacks/EntropyAnchor/tau"


@pytest.fixture
def fit(cli, small, random_model, tmp_path, monkeypatch):
    """A run of two rollouts with a logger; gives its folder, with its own files checked."""
    monkeypatch.setattr("aer_lightning.callbacks.curves.Curves.draw", lambda self, t: (tmp_path / "run" / "curves.png").touch())

    def run(*options):
        before = set(map(str, tmp_path.parent.iterdir()))
        folder = tmp_path / "run"
        sizes = ["--export.enabled=false", "--data.init_args.evaluation.init_args.size=8"]
        status, _, err = cli.run("fit", "-c", "configs/aer.yaml", *small(random_model, folder), *sizes, *options)
        assert status == 0, err
        assert {path.name for path in folder.iterdir()} >= OWN
        assert [row["rollout/index"] for row in read_rows(folder / "metrics.csv") if "rollout/index" in row] == [0, 1]
        facts = json.loads((folder / "summary.json").read_text())
        assert facts["rollouts"] == 2 and facts["evaluation"]["countdown"][0]["before"]
        assert (folder / "checkpoints" / "last.ckpt").exists()
        assert set(map(str, tmp_path.parent.iterdir())) == before and [p.name for p in tmp_path.iterdir()] == ["run"]
        saved = yaml.safe_load((folder / "config.yaml").read_text())
        assert str(folder) not in json.dumps({k: v for k, v in saved.items() if k != "run_dir"}), "it starts a run in another folder"
        return folder

    return run


def test_none(fit):
    folder = fit("--trainer.logger=false")
    assert not list(folder.glob("events*")) and not list(folder.glob("hparams*"))


def test_tensorboard_is_the_default(fit):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = fit()
    events = EventAccumulator(str(folder)).Reload()
    assert len(events.Scalars("rollout/reward")) == 2
    assert yaml.safe_load((folder / "hparams.yaml").read_text())["trainer"]["callbacks"]["EntropyAnchor"]["tau"] == 0.8


def test_several(fit):
    folder = fit("-c", "configs/logger/several.yaml")
    assert list((folder / "tensorboard").glob("events*"))
    theirs, ours = read_rows(folder / "csv" / "metrics.csv"), read_rows(folder / "metrics.csv")
    assert [row.get("train/loss") for row in theirs] == [row.get("train/loss") for row in ours]
    assert yaml.safe_load((folder / "csv" / "hparams.yaml").read_text())["data"]["init_args"]["prompts_per_rollout"] == 4


def test_wandb_offline(fit, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install 'aer-lightning[wandb]'")
    for name in ("WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = fit("-c", "configs/logger/wandb.yaml", "--trainer.logger.offline=true")
    run = wandb.run
    assert (run.project, run.name) == ("aer_lightning", "aer")
    assert run.config["trainer"]["callbacks"]["EntropyAnchor"]["tau"] == 0.8
    assert run.config["data"]["init_args"]["engine"]["class_path"].endswith("TransformersEngine")
    summary = dict(run.summary)
    assert summary["rollout/index"] == 1 and {"val/countdown/pass@2", "aer/alpha"} <= summary.keys()
    assert summary["samples"]["nrows"] == 16 and summary["pass_at_k"]["ncols"] == 5
    assert str(folder) in run.dir
    wandb.finish()


def test_mlflow(fit, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow pins pyarrow and cachetools below ours; `make mlflow-check` tries it beside them")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = fit("-c", "configs/logger/mlflow.yaml")
    with sqlite3.connect(folder / "mlflow.db") as database:
        parameters = dict(database.execute("select key, value from params"))
        metrics = {name for (name,) in database.execute("select distinct key from metrics")}
        assert database.execute("select count(*) from metrics where key = 'rollout/reward'").fetchone() == (2,)
    assert parameters[TAU] == "0.8" and parameters["data/init_args/prompts_per_rollout"] == "4"
    assert {"aer/alpha", "val/countdown/pass2"} <= metrics  # MLflow has no @


def test_a_csv_logger_over_our_file_is_refused_and_leaves_nothing(cli, small, random_model, tmp_path):
    logger = '{"class_path": "CSVLogger", "init_args": {"save_dir": ".", "name": "", "version": ""}}'
    message = cli.refused("fit", "-c", "configs/aer.yaml", *small(random_model, tmp_path / "run"), f"--trainer.logger={logger}")
    assert "trainer.logger" in message and "CSVLogger" in message
    assert not (tmp_path / "run").exists()


def test_a_logger_that_is_not_installed(cli, small, random_model, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    message = cli.refused("fit", "-c", "configs/aer.yaml", "-c", "configs/logger/mlflow.yaml", *small(random_model, tmp_path / "run"))
    assert "trainer.logger" in message and "pip install mlflow" in message


def test_hyperparameters_of_a_class_given_twice():
    listed = [{"class_path": "x.A", "init_args": {"n": 1}}, {"class_path": "y.A"}, {"class_path": "z.B", "init_args": {"m": [1, 2]}}]
    assert hyperparameters({"c": listed}) == {"c": {"A": {"n": 1}, "A_2": {}, "B": {"m": [1, 2]}}}
