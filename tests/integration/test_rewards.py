"""Several rewards with weights by a run of the command line: what is summed, what is logged, and what stays a share of correct answers."""

from __future__ import annotations

import json
import sys

import pytest
import yaml


@pytest.fixture
def rewards(tmp_path, monkeypatch):
    """An overlay with one reward of each kind; digits comes from a module that is nowhere but here, and runs in worker processes."""
    (tmp_path / "my_rewards.py").write_text("def digits(completion):\n    return sum(c.isdigit() for c in completion) / 10\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    entries = [
        {"class_path": "Correctness"},
        {"class_path": "Format", "init_args": {"pattern": r"[-+*/]"}, "weight": 0.2},
        {"class_path": "Length", "init_args": {"limit": 8}, "weight": 0.1, "name": "short"},
        {"class_path": "my_rewards.digits", "weight": -0.5, "process": True, "timeout_s": 20},
    ]
    path = tmp_path / "rewards.yaml"
    path.write_text(yaml.safe_dump({"data": {"init_args": {"rewards": entries}}, "samples": {"every": 1, "limit": None}}))
    return path, entries


def test_a_run_with_several_rewards(cli, small, random_model, tmp_path, read_metrics, rewards):
    overlay, entries = rewards
    options = [*small(random_model, tmp_path / "run"), "--export.enabled=false", "--curves.enabled=false"]
    status, _, err = cli.run("fit", "-c", "configs/aer.yaml", "-c", overlay, *options)
    assert status == 0, err
    rows = read_metrics(tmp_path / "run")
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    names = ["correctness", "format", "short", "digits"]
    assert len(rows) == 2 and len(samples) == 32
    for row in rows:
        parts = [row[f"rollout/reward/{name}"] for name in names]
        assert row["rollout/reward"] == pytest.approx(sum(e.get("weight", 1.0) * p for e, p in zip(entries, parts, strict=True)), abs=1e-5)
        texts = [s["completion"] for s in samples if s["rollout"] == row["rollout/index"]]
        assert parts[3] == pytest.approx(sum(sum(map(str.isdigit, text)) for text in texts) / 10 / len(texts), abs=1e-5)
        assert parts[1] == pytest.approx(sum(any(c in text for c in "-+*/") for text in texts) / len(texts), abs=1e-5)
        assert row["rollout/correct"] == parts[0] and row["rollout/reward"] != row["rollout/correct"]
    held_out = [json.loads(line) for line in (tmp_path / "run" / "evaluation.jsonl").read_text().splitlines()]
    assert held_out and all(0 <= row["correct"] <= row["samples"] for row in held_out if "correct" in row and "samples" in row)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"class_path": "Correctnes"}], "there is no reward Correctnes"),
        ([{"class_path": "Correctness", "wieght": 2}], "unknown key 'wieght'"),
        ([{"class_path": "Correctness"}, {"class_path": "Correctness"}], "two are named the same"),
    ],
)
def test_what_cannot_be_is_one_line(cli, small, random_model, tmp_path, entries, said, before_loading):
    overlay = tmp_path / "rewards.json"
    overlay.write_text(json.dumps({"data": {"init_args": {"rewards": entries}}}))
    assert said in cli.refused("fit", "-c", "configs/aer.yaml", "-c", overlay, *small(random_model, tmp_path / "run"))
