from aer_lightning.reporting.metrics_file import MetricsFile
from aer_lightning.reporting.run_metrics import read_rows


def test_rows_of_different_columns(tmp_path):
    file = MetricsFile(tmp_path / "m.csv")
    file.append({"epoch": 0, "step": 0, "a": 0.1})
    before = (tmp_path / "m.csv").read_text()
    file.append({"epoch": 0, "step": 1, "a": 1e-17})
    assert (tmp_path / "m.csv").read_text().startswith(before), "appended"
    file.append({"epoch": 1, "step": 2, "b, quoted": float("nan")})
    file.append({"epoch": 1, "step": 3, "a": 2.0, "b, quoted": 3.0})
    rows = read_rows(file.path)
    assert rows[:2] == [{"epoch": 0, "step": 0, "a": 0.1}, {"epoch": 0, "step": 1, "a": 1e-17}]
    assert rows[2]["b, quoted"] != rows[2]["b, quoted"] and rows[3]["b, quoted"] == 3.0
    assert file.path.read_text().splitlines()[0] == 'epoch,step,a,"b, quoted"'


def test_an_older_file_is_replaced(tmp_path):
    (tmp_path / "m.csv").write_text("old\n1\n")
    file = MetricsFile(tmp_path / "m.csv")
    file.append({"epoch": 0, "step": 0, "a": 1.0})
    assert read_rows(file.path) == [{"epoch": 0, "step": 0, "a": 1.0}]
    file.replace([{"epoch": 0, "step": 5, "b": 1.0}])
    file.append({"epoch": 0, "step": 6, "b": 2.0})
    assert [row["step"] for row in read_rows(file.path)] == [5, 6] and len(file.rows) == 2
