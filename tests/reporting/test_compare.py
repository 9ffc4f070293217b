import csv
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from aer_lightning.compare import caveats, main
from aer_lightning.reporting import comparison_figures
from aer_lightning.reporting.comparison_figures import mean_and_error
from aer_lightning.reporting.page import format_value
from aer_lightning.reporting.runs import group_runs, read_run
from aer_lightning.reporting.statistics import Estimate, Figure

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what a browser would load, and checks that tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.images, self.ids, self.links = [], [], 0, set(), set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids.add(values.get("id"))
        if tag == "a":
            self.links.add(values["href"])
        elif "src" in values or "href" in values:
            self.loads.append(values.get("src") or values.get("href"))
        if tag == "img":
            self.images += 1
            assert values["alt"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def folders(make_run):
    grpo = {"name": "grpo <b>", "trainer.callbacks": []}
    return [
        make_run("a1", correct=[8, 8, 4, 2]),
        make_run("a2", {"seed_everything": 2}, correct=[8, 6, 4, 0], seed=1),
        make_run("g1", grpo, correct=[8, 0, 0, 0], target=None, alpha=False),
    ]


def test_report_holds_everything_and_loads_nothing(folders, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*map(str, folders), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "pass@8" in printed and "aer" in printed and str(out / "report.html") in printed
    text = (out / "report.html").read_text()
    page = Page(text)
    pictures = sorted(p.stem for p in out.glob("*.png"))
    expected = ["alpha", "entropy", "frontier", "pass_at_k", "pass_over_training", "response_length", "reward"]
    assert pictures == expected and page.images == len(expected)
    assert page.loads and all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "url(" not in text and "<script src" not in text
    assert "grpo &lt;b&gt;" in text and "<b>" not in text, "names are escaped"


def test_table_is_written_for_programs_too(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison_figures, "draw_all", lambda methods: [])
    main([*map(str, folders), "--out", str(tmp_path / "out")])
    with (tmp_path / "out" / "table.csv").open() as file:
        rows = {(r["method"], r["figure"]): r for r in csv.DictReader(file)}
    row = rows["aer", "countdown/pass@1"]
    assert float(row["mean"]) == pytest.approx((22 + 18) / 64, abs=1e-6) and row["seeds"] == "2"
    assert float(row["standard_error"]) == pytest.approx(4 / 32 / 2, abs=1e-6)


def test_what_cannot_be_compared_is_one_line(make_run, tmp_path, capsys):
    a, b = make_run("a"), make_run("b", {"seed_everything": 2, "data.init_args.max_new_tokens": 5})
    for arguments in ([str(a), str(b)], [str(tmp_path / "none")], [str(a), "--out", str(a / "metrics.csv")]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    assert main([]) == 2


def test_caveats_name_what_a_reader_has_to_know(make_run):
    folder = make_run("d", {"name": "dapo"})
    text = (folder / "metrics.csv").read_text().splitlines()
    head = text[0] + ",rollout/sampling_tries"
    (folder / "metrics.csv").write_text("\n".join([head, *(line + (",2" if "0.5" in line else ",") for line in text[1:])]) + "\n")
    found = caveats(group_runs([read_run(str(folder))]))
    assert any(re.search(r"dapo draws .* 2\.00 times", note) for note in found)
    assert any("One seed alone" in note and "dapo" in note for note in found)
    assert any("No evaluation.jsonl" in note for note in found)


def test_mean_and_error_over_seeds_skip_nan():
    mean, error = mean_and_error([np.array([1.0, 2.0, np.nan]), np.array([3.0, np.nan, np.nan])])
    assert mean[:2].tolist() == [2.0, 2.0] and np.isnan(mean[2])
    assert error[0] == pytest.approx(1.0) and np.isnan(error[1:]).all()


def test_numbers_are_written_as_their_figure_says():
    figure = Figure("x", "", "", digits=2)
    assert format_value(Estimate(1234.5678, 0.125, 3), figure) == ("1,234.57", "± 0.12")
    assert format_value(Estimate(0.5, float("nan"), 1), figure) == ("0.50", "")
    assert format_value(Estimate(float("nan"), float("nan"), 0), figure) == ("–", "")
