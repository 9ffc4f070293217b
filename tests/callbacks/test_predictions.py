import json

from aer_lightning.callbacks.predictions import PredictionLog, table
from aer_lightning.data.prompts import CountdownPrompts


def test_table():
    lines = table([(("a", "1"), [4, 1, 0]), (("a", "2"), [4, 0, 4]), (("b", "1"), [2, 2, 0])])
    assert lines[2:] == ["| a | 2 | 8 | 0.125 | 0.500 | 0.500 |", "| b | 1 | 2 | 1.000 | 1.000 | 0.000 |"]


def test_predict_writes_rows_and_prints_their_table(runs, tmp_path, capsys):
    data = runs.data(evaluation=[CountdownPrompts(split="validation", numbers=(2,), size=4, name="mytest")])
    runs.trainer([PredictionLog()]).predict(runs.module(), data)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and "answer" in rows[0]
    out = capsys.readouterr().out
    assert "| mytest | 4 | 8 |" in out and "predictions" in out
