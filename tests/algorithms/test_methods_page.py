"""docs/methods.md: what it names exists, its table and picture are what the command makes, and the answers have the sign they should."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml

from aer_lightning import callbacks
from aer_lightning.algorithms import objectives

ROOT = Path(__file__).parents[2]


@pytest.fixture
def methods(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("methods")


def test_every_class_and_overlay_of_the_table_exists_and_is_used_by_the_overlay(methods):
    for method in methods.METHODS:
        overlay = (ROOT / f"configs/{method.overlay}.yaml").read_text()
        assert yaml.safe_load(overlay)["name"] == method.overlay
        for name in re.findall(r"`(\w+)`", method.code):
            assert hasattr(callbacks, name) or hasattr(objectives, name), name
            assert name in overlay or name == "ClipObjective", f"{method.overlay}.yaml does not use {name}"


def test_the_page_holds_a_row_for_each_method_and_the_picture(methods):
    page = methods.PAGE.read_text()
    for method in methods.METHODS:
        assert f"| {method.name} | {method.rule} |" in page and f"`{method.overlay}`" in page
    for picture in re.findall(r"\]\((images/\S+)\)", page):
        assert (methods.PAGE.parent / picture).is_file()


def test_each_answers_a_collapse_by_raising_the_entropy_and_an_explosion_by_letting_go(methods):
    entropies = methods.trajectory()
    found = methods.answers(entropies, methods.TARGET)
    assert len(entropies) == 160 and all(len(values) == 160 for _, values in found.values())
    assert set(found) <= {m.name for m in methods.METHODS}
    for name, (_, values) in found.items():
        sign = -1 if name in ("EntroPIC", "Pos-Adv-Reweight") else 1  # more weight on right tokens lowers the entropy
        collapsed, exploded = values[75], values[112]
        assert sign * collapsed > sign * exploded, name


def test_the_command_makes_table_and_picture(methods, monkeypatch, tmp_path):
    page = tmp_path / "methods.md"
    page.write_text("<!-- methods -->\n<!-- /methods -->\n<!-- cost -->\n<!-- /cost -->\n")
    monkeypatch.setattr(methods, "PAGE", page)
    monkeypatch.setattr(methods, "PICTURE", tmp_path / "methods.png")
    monkeypatch.setattr(methods, "RESULT", tmp_path / "methods.json")
    monkeypatch.setattr(methods, "LENGTH", 16)
    monkeypatch.setattr(methods, "STEP", (2, 4))
    methods.main(["--repeats", "1", "--machine", "a test"])
    assert page.read_text().count(" ms") == len(methods.METHODS) + 3 and "a test" in page.read_text()
    assert (tmp_path / "methods.png").read_bytes()[:4] == b"\x89PNG"
    before = page.read_text()
    methods.main(["--no-cost"])
    assert page.read_text() == before
