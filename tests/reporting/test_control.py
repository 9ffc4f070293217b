"""The measurements of docs/control.md: every run is a configuration that can be built, and every picture on the page is drawn."""

from __future__ import annotations

import csv
import importlib
import re
from pathlib import Path

import pytest

from aer_lightning.callbacks import DifficultyCoefficient, EntropyAnchor, GlobalCoefficient
from aer_lightning.study.runner import DONE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def control(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(ROOT)
    return importlib.import_module("control")


def test_every_run_has_a_name_and_a_stack_of_its_own(control):
    runs = [control.run_of(case, seed) for case in control.cases() for seed in case.seeds]
    assert len({run.folder for run in runs}) == len(runs) == len({str(run.config | {"name": ""}) for run in runs})
    builders = {"EntropyAnchor": EntropyAnchor, "GlobalCoefficient": GlobalCoefficient, "DifficultyCoefficient": DifficultyCoefficient}
    for run in runs:
        for callback in run.config["trainer"]["callbacks"]:
            name = callback["class_path"].rpartition(".")[2]
            if name in builders:
                builders[name](**callback["init_args"])
    assert {run.config["trainer"]["callbacks"][1]["init_args"]["controller"] for run in runs} == {"pi", "proportional"}


def test_the_table_and_every_picture_of_the_page(control, make_run, tmp_path):
    root = tmp_path / "runs"
    with (make_run("done", rollouts=40) / "metrics.csv").open() as file:
        rows = [row | {"aer/mean_coefficient": row["aer/alpha"]} for row in csv.DictReader(file)]
    for case in control.cases():
        folder = root / case.name / f"seed{case.seeds[0]}"
        folder.mkdir(parents=True)
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        if case.name != "gate":
            (folder / DONE).write_text("{}")
    control.write_table(root, tmp_path / "control.csv")
    table = list(csv.DictReader((tmp_path / "control.csv").open()))
    assert {row["case"] for row in table} == {case.name for case in control.cases()} - {"gate"}, "finished runs alone"
    (tmp_path / "control.md").write_text((ROOT / "docs/control.md").read_text())
    control.write_page(tmp_path / "control.csv", tmp_path / "control.md")
    filled = (tmp_path / "control.md").read_text()
    assert "| tau 0.3, learning rate / 3.2 | 44 |" in filled and "| proportional, tau 0.7 |" in filled
    assert re.search(r"\| hinge \| .* \| 1 \|", filled) and "| gate |" not in filled
    for draw in control.PICTURES.values():
        assert draw(root).startswith(b"\x89PNG")
    page = (ROOT / "docs/control.md").read_text()
    assert {f"control_{name}.png" for name in control.PICTURES} == set(re.findall(r"images/(control_\w+\.png)", page))
