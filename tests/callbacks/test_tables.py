import json
import types

import pytest
from lightning.pytorch.loggers import Logger

from aer_lightning.callbacks.evaluation_log import EvaluationLog
from aer_lightning.callbacks.samples import SampleLog
from aer_lightning.callbacks.tables import log_table, pass_at_k_rows
from aer_lightning.data.prompts import CountdownPrompts


class Tables(Logger):
    """A logger with tables, as W&B's is."""

    name, version = "tables", ""

    def __init__(self):
        super().__init__()
        self.tables = {}

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_table(self, key, columns=None, data=None, dataframe=None, step=None):
        self.tables.setdefault(key, []).append((columns, data, step))


def test_rows_by_source_and_label():
    metrics = {
        "val/a/pass@1": 0.5,
        "val/a/pass@8": 0.75,
        "val/a/x/pass@1": 0.25,
        "val/a/x/pass@1_se": 0.1,
        "val/b/pass@1": 1.0,
        "loss": 3.0,
    }
    assert pass_at_k_rows(metrics, 7) == [
        {"rollouts": 7, "source": "a", "label": "", "pass@1": 0.5, "pass@8": 0.75},
        {"rollouts": 7, "source": "a", "label": "x", "pass@1": 0.25, "pass@8": None},
        {"rollouts": 7, "source": "b", "label": "", "pass@1": 1.0},
    ]


def test_tables_of_a_run(runs, tmp_path):
    logger = Tables()
    data = runs.data(evaluation=[CountdownPrompts(split="validation", numbers=(2, 3), size=4)], rollouts_per_epoch=1)
    trainer, *_ = runs.fit([SampleLog(every=1, limit=4), EvaluationLog()], data=data, logger=[logger], max_epochs=2)
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    written = [{k: v for k, v in line.items() if not k.startswith("token_")} for line in lines]
    columns, rows, _ = logger.tables["samples"][0]
    assert [dict(zip(columns, row, strict=True)) for row in rows] == written[:4] and len(logger.tables["samples"]) == 2
    columns, rows, step = logger.tables["pass_at_k"][-1]
    assert columns[:3] == ["rollouts", "source", "label"] and [row[0] for row in rows] == [1, 1, 1, 2, 2, 2] and step == 2
    assert rows[3][3] == pytest.approx(float(trainer.callback_metrics["val/countdown/pass@1"]))


def test_no_rows_and_other_ranks_log_nothing():
    logger = Tables()
    log_table(types.SimpleNamespace(is_global_zero=True, loggers=[logger], global_step=1), "t", [])
    log_table(types.SimpleNamespace(is_global_zero=False, loggers=[logger], global_step=1), "t", [{"a": 1}])
    assert not logger.tables
