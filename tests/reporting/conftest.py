"""Fabricated run folders, written the way the loggers and callbacks of a run write them."""

from __future__ import annotations

import csv
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

CONFIG: dict[str, Any] = {
    "name": "aer",
    "seed_everything": 1,
    "trainer": {"callbacks": [{"class_path": "EntropyAnchor", "init_args": {"tau": 0.8}}], "default_root_dir": None, "devices": 1},
    "model": {"class_path": "PolicyModule", "init_args": {"pretrained": "countdown-tiny", "optimizer": {"init_args": {"lr": 5e-5}}}},
    "data": {
        "class_path": "RolloutDataModule",
        "init_args": {
            "prompts": {"class_path": "CountdownPrompts", "init_args": {"numbers": [2, 3], "seed": 0}},
            "evaluation": [{"class_path": "CountdownPrompts", "init_args": {"split": "validation", "size": 4, "seed": 0}}],
            "prompts_per_rollout": 4,
            "responses_per_prompt": 8,
            "optimizer_steps_per_rollout": 1,
            "temperature": 1.0,
            "eval_temperature": None,
            "max_new_tokens": 26,
            "eval_samples": 8,
            "seed": None,
        },
    },
}


def write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    """As the CSV logger does: one column per metric that any row has, empty cells elsewhere."""
    names = sorted({k for row in rows for k in row})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def change(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with dotted keys set."""
    config = deepcopy(config)
    for key, value in changes.items():
        *path, last = key.split(".")
        place = config
        for part in path:
            place = place[part]
        place[last] = value
    return config


class RunFactory:
    """Makes run folders below a temporary one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def rows(self, rollouts: int, seed: int = 0, target: float | None = 0.32, alpha: bool = True) -> list[dict[str, float]]:
        """Rows of a run whose entropy falls from 0.4 to 0.3 nat, with an evaluation before, in the middle and after."""
        rng = np.random.default_rng(seed)
        rows: list[dict[str, float]] = [self.evaluation(0, 0.3, 0.6)]
        for i in range(rollouts):
            row = {
                "step": i,
                "epoch": i // 5,
                "rollout/index": i,
                "rollout/entropy": 0.4 - 0.1 * i / max(1, rollouts - 1),
                "rollout/reward": 0.3 + 0.02 * i + 0.001 * rng.standard_normal(),
                "rollout/response_length": 10 + rng.random(),
                "rollout/generate_seconds": 0.5,
                "rollout/generate_tokens_per_second": 1000.0 + i,
            }
            if alpha:
                row |= {"aer/alpha": 0.01 * i, "aer/active_tokens": 0.5}
            if target is not None:
                row |= {"aer/target_entropy": target, "aer/anchor_entropy": 0.4}
            rows.append(row)
            if (i + 1) % 5 == 0:
                rows.append(self.evaluation(i, 0.3 + 0.01 * i, 0.6 + 0.01 * i))
        return rows

    @staticmethod
    def evaluation(step: int, first: float, eighth: float) -> dict[str, float]:
        """One logged evaluation."""
        return {
            "step": step,
            "epoch": step // 5,
            "val/countdown/pass@1": first,
            "val/countdown/pass@1_se": 0.02,
            "val/countdown/pass@8": eighth,
            "val/countdown/pass@8_se": 0.02,
            "val/countdown/2 numbers/pass@1": first + 0.1,
            "val/countdown/2 numbers/pass@8": eighth + 0.1,
            "val/countdown/3 numbers/pass@1": first - 0.1,
            "val/countdown/3 numbers/pass@8": eighth - 0.1,
            "val/countdown/reward": first,
        }

    def __call__(
        self,
        name: str = "a",
        changes: dict[str, Any] | None = None,
        rollouts: int = 10,
        correct: list[int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Write a folder; ``correct`` of 8 samples for each of 4 problems, None for no ``evaluation.jsonl``."""
        folder = self.root / name
        folder.mkdir(parents=True)
        write_csv(folder / "metrics.csv", self.rows(rollouts, **kwargs))
        (folder / "config.yaml").write_text(yaml.safe_dump(change(CONFIG, changes or {})))
        if correct is not None:
            lines = []
            for step, counts in ((0, [1, 0, 0, 0]), (rollouts, correct)):
                for i, c in enumerate(counts):
                    row = {"step": step, "source": "countdown", "id": f"p{i}", "label": f"{2 + i // 2} numbers", "n": 8, "correct": c}
                    lines.append(json.dumps(row | {"distinct_correct": min(c, 2), "tokens": 80, "truncated": 0}))
            (folder / "evaluation.jsonl").write_text("\n".join(lines) + "\n")
        return folder


@pytest.fixture
def make_run(tmp_path: Path) -> RunFactory:
    """See ``RunFactory``."""
    return RunFactory(tmp_path)
