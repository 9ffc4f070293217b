"""The page on arithmetic: a resumed run is joined, samples are picked by rule."""

import csv
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


def write_run(folder, target, final):
    """Ten rollouts, an evaluation before and after, samples of three rollouts."""
    folder.mkdir(parents=True)
    passes = {
        f"val/arithmetic/{level}pass@{k}" for k in (1, 8, 16) for level in ("", "one-digit sums/", "two-digit sums/", "two operations/")
    }
    rows = [{"step": 0, **dict.fromkeys(passes, 0.1)}]
    for index in range(10):
        values = {
            "rollout/index": index,
            "rollout/entropy": 2.0 - 0.1 * index,
            "rollout/reward": 0.1 * index,
            "aer/alpha": 0.02,
            "aer/active_tokens": 0.5,
        }
        rows.append({"step": 2 * index + 1, **values, **({"aer/target_entropy": target} if target else {})})
    rows.append({"step": 19, **dict.fromkeys(passes, final)})
    names = sorted({name for line in rows for name in line})
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    samples = [row(r, "What is 3 + 5?", "8", 1.0) for r in range(3) for _ in range(2)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(x) + "\n" for x in samples))


def test_the_study_has_a_page_of_its_own(arithmetic, tmp_path, monkeypatch):
    root = tmp_path / "runs"
    for seed, final in ((1, 0.4), (2, 0.6)):
        write_run(root / "aer" / f"seed{seed}", 1.0, final)
    write_run(root / "grpo/seed1", None, 0.3)
    (tmp_path / "study.md").write_text((ROOT / "docs/arithmetic/study.md").read_text())
    monkeypatch.setattr(arithmetic, "OUT", tmp_path)
    arithmetic.write_study(root)
    page = (tmp_path / "study.md").read_text()
    assert "| aer | all | 0.10 → 0.50 ± 0.10 |" in page and "| grpo | all | 0.10 → 0.30 |" in page and "10/10" in page
    assert "| aer | 1 | 1 to 10 | 0.45 | 1.55 | 1.55 | 0.020 | 0.50 |" in page and "| grpo | 1 | 1 to 10 | 0.45 | 1.55 | – |" in page
    assert page.count("What is 3 + 5?") == 6, "one of two, in three rollouts of two methods"
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="no runs"):
        arithmetic.write_study(tmp_path / "nothing")
