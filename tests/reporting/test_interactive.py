import json
import re
import shutil
import subprocess

import pytest

from aer_lightning.compare import main as compare
from aer_lightning.reporting.interactive import embed, flatten, read_samples, report_data, script
from aer_lightning.reporting.runs import Method, group_runs, read_run

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror="document.title=1">\u2028'


def sample(rollout, completion, **more):
    return {"rollout": rollout, "prompt": "1 2=3:", "completion": completion, "outcome": "correct", "reward": 1.0} | more


@pytest.fixture
def folders(tmp_path, make_run):
    found = []
    for seed, name in ((1.0, "a"), (2.0, "b")):
        folder = make_run(name, {"name": name, "trainer.gradient_clip_val": seed})
        rows = [sample(0, HOSTILE), sample(1, "1+2", token_texts=["1", "+2"], token_entropies=[0.5, 2.5])]
        (folder / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"rollout": 2, "pro')
        found.append(folder)
    return found


def test_data_of_two_runs(folders):
    data = report_data(group_runs([read_run(str(f)) for f in folders]))
    panels = {panel["title"]: panel for panel in data["panels"]}
    reward = panels["Reward"]["series"]
    assert [s["name"] for s in reward] == ["a", "b"] and reward[0]["colour"] != reward[1]["colour"]
    assert reward[0]["points"][0][0] == 1
    assert [r["completion"] for r in data["samples"]["a"]] == [HOSTILE, "1+2"], "a line that is being written is left out"
    assert len(read_samples(folders[0] / "nowhere")) == 0


def test_labels_of_one_run_are_lines_of_a_panel(folders):
    run = read_run(str(folders[0]))
    for label in ("2 numbers", "3 numbers"):
        run.metrics.columns[f"label/{label}/entropy"] = run.metrics.column("rollout/entropy")
    titles = {p["title"]: p for p in report_data([Method("a", [run])])["panels"]}
    assert [s["name"] for s in titles["Entropy by difficulty"]["series"]] == ["2 numbers", "3 numbers"]


def test_nothing_in_the_data_ends_the_script():
    text = embed({"x": HOSTILE})
    assert "<" not in text and "\u2028" not in text and json.loads(text) == {"x": HOSTILE}
    assert "innerHTML" not in script() and "http" not in script().replace("http://www.w3.org/2000/svg", "")


def test_differences_of_configuration():
    config = {"trainer": {"callbacks": [{"class_path": "x.A", "init_args": {"n": 1}}, {"class_path": "x.B"}]}, "m": {}}
    assert flatten(config) == {"trainer.callbacks.A.n": 1, "trainer.callbacks.B": "on", "m": {}}


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_page_in_a_browser(folders, tmp_path, capsys):
    """The script runs, draws every panel and shows hostile text as text."""
    assert compare([*map(str, folders), "--out", str(tmp_path / "out")]) == 0
    page = tmp_path / "out" / "report.html"
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        f"file://{page}",
    ]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "<title>a, b compared</title>" in dom
    assert len(re.findall(r'<figure class="chart">', dom)) >= 4 and "<polyline" in dom
    assert "&lt;/script&gt;&lt;script&gt;document.title" in dom and "rgba(237, 174, 73" in dom.replace(
        "rgba(237,174,73", "rgba(237, 174, 73"
    )
    assert "Differences of configuration" in dom
