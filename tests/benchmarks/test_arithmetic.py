"""The page on arithmetic: a resumed run is joined, samples are picked by rule."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def arithmetic(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("arithmetic")


def row(rollout, prompt, completion, reward, label="one-digit sums"):
    sample = {"rollout": rollout, "id": f"id {prompt}", "prompt": prompt, "completion": completion, "reward": reward}
    return sample | {"label": label, "entropy": 2.0 - reward, "tokens": 4}


@pytest.fixture
def runs(tmp_path):
    """Rollouts 0 to 2 and, resumed from the second, 1 to 4."""
    folders = []
    for name, first, last, completion in (("first", 0, 2, "old"), ("resumed", 1, 4, "new | `a`\nline")):
        folder = tmp_path / name
        folder.mkdir()
        rows = [
            row(r, f"What is {p}?", completion, float(r >= 2), "two-digit sums" if p else "one-digit sums")
            for r in range(first, last + 1)
            for p in range(2)
            for _ in range(3)
        ]
        (folder / "samples.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
        folders.append(folder)
    return folders


def test_a_resumed_run_replaces_what_it_drew_again(arithmetic, runs):
    rollouts = arithmetic.read_rollouts(runs)
    assert list(rollouts) == [0, 1, 2, 3, 4] and all(len(rows) == 6 for rows in rollouts.values())
    assert {rows[0]["completion"] for rows in rollouts.values()} == {"old", "new | `a`\nline"}
    assert rollouts[1][0]["completion"].startswith("new")
    assert [arithmetic.share(rows) for rows in rollouts.values()] == [0, 0, 1, 1, 1]
    assert arithmetic.entropy(rollouts[0]) == 2.0


def test_samples_are_of_start_middle_and_end_and_stay_in_their_cells(arithmetic, runs, tmp_path):
    rollouts = arithmetic.read_rollouts(runs)
    text = arithmetic.picked(rollouts)
    assert [f"**Rollout {i}**" in text for i in range(5)] == [True, False, True, False, True]
    rows = [line for line in text.splitlines() if line.startswith("| What")]
    assert len(rows) == 3 * 2 * 2, "two completions of each prompt"
    assert rows[-1] == "| What is 1? | `new \\| 'a'⏎line` | 1 |"
    arithmetic.draw(rollouts, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_what_is_paid_without_the_value_is_counted(arithmetic):
    rows = [row(0, "What is 58 + 8?", text, 1.0) for text in ("58 + 8 = 66", "166", "66.5 or 7", "so 66!")]
    assert arithmetic.unwritten(rows) == 1
    assert arithmetic.unwritten([row(0, "What is 7 * 12 - 3?", "7 * 12 - 3", 1.0), row(0, "What is 2?", "2", 0.0)]) == 1


def test_the_page_has_the_sections_that_are_filled():
    page = (ROOT / "docs/arithmetic/README.md").read_text()
    assert all(f"<!-- {mark}{name} -->" in page for name in ("figures", "samples") for mark in ("", "/"))
