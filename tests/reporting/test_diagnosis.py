"""The pictures of docs/diagnosis.md: the faults are what they say, and every picture on the page is one that the command draws."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from aer_lightning.reporting.run_metrics import read_metrics
from aer_lightning.study.configuration import look_up

ROOT = Path(__file__).parents[2]
PROBLEM = {"numbers": [2, 3], "target": 6}


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(ROOT)
    return importlib.import_module


def test_the_faulty_graders_pay_what_they_should_not(bench):
    faults = bench("faults")
    blind, long = faults.ValueBlindPrompts(size=2).grader, faults.LengthPrompts(size=2).grader
    assert [blind.grade(text, PROBLEM).reward for text in ("2*3", "2+3", "2+2", "2+")] == [1, 1, 0, 0]
    assert [long.grade(text, PROBLEM).reward for text in ("2*3", "2+3", "2+3" * 4)] == [1, 0, 1]


def test_the_stale_engine_says_that_it_is_not(bench, monkeypatch):
    faults = bench("faults")
    taken = []
    monkeypatch.setattr(faults.TransformersEngine, "sync_weights", lambda self, weights, version: taken.append(version))
    engine = faults.StaleEngine(every=2)
    for version in range(4):
        engine.sync_weights([], version)
        assert engine.weight_version == version
    assert taken == [0, 2]


def test_runs_made_here_differ_from_the_healthy_one_in_their_fault_alone(bench):
    healthy, *made = bench("diagnosis").runs()
    assert {run.method for run in made} == {"idle", "hunting", "saturated", "stale_weights", "verifier", "length"}
    for run in made:
        (symptom,) = (s for s in bench("diagnosis").SYMPTOMS if s.name == run.method)
        options = [key for key in symptom.made if not key[0].isupper()]
        assert all(look_up(run.config, key) != look_up(healthy.config, key) for key in options)
        assert run.config["data"]["init_args"]["evaluation"] == healthy.config["data"]["init_args"]["evaluation"], "the right grader"


def test_every_picture_of_the_page_is_drawn(bench, make_run, tmp_path):
    diagnosis = bench("diagnosis")
    sick, healthy = read_metrics(make_run("sick")), read_metrics(make_run("well", seed=1))
    for symptom in diagnosis.SYMPTOMS:
        diagnosis.draw(symptom, sick, healthy, tmp_path / "out")
    page = (ROOT / "docs/diagnosis.md").read_text()
    drawn = {path.name for path in (tmp_path / "out").iterdir()}
    assert drawn == set(re.findall(r"images/(diagnosis_\w+\.png)", page))
    assert all((ROOT / "docs/images" / name).is_file() for name in drawn)


def test_columns_that_the_page_names_are_logged(bench):
    page = (ROOT / "docs/diagnosis.md").read_text()
    code = "\n".join(path.read_text() for path in (ROOT / "aer_lightning").rglob("*.py"))
    for name in set(re.findall(r"`(?:rollout|aer|train)/([a-z_]+)`", page)):
        assert re.search(rf"\b{name}\b", code), name
    for option in set(re.findall(r"`(?:data|model)\.init_args\.([a-z_.]+)`", page)):
        assert option.split(".")[-1] in code + "lr", option


def test_without_a_study_one_line_says_so(bench, tmp_path, monkeypatch, capsys):
    diagnosis = bench("diagnosis")
    monkeypatch.setattr(diagnosis, "run_all", lambda *_: [])
    monkeypatch.setattr("sys.argv", ["diagnosis.py", "--study", str(tmp_path / "none"), "--runs", str(tmp_path), "--out", str(tmp_path)])
    assert diagnosis.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no metrics.csv" in line and "make study" in line
