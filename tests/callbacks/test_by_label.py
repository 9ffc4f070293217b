import math

import pytest

from aer_lightning.callbacks import EntropyAnchor, FixedCoefficient
from aer_lightning.callbacks.by_label import LabelFigures
from aer_lightning.callbacks.history import MetricsHistory
from aer_lightning.reporting.run_metrics import read_rows


@pytest.mark.parametrize("steps", [1, 2])
def test_figures_by_label(runs, tmp_path, steps):
    data = runs.data(rollouts_per_epoch=1, optimizer_steps_per_rollout=steps)
    runs.fit([EntropyAnchor(), FixedCoefficient(0.25), LabelFigures(), MetricsHistory()], data=data)
    (row,) = read_rows(tmp_path / "metrics.csv")
    labels = {s.label for s in data.last_samples}
    assert len(labels) == 2
    total = 0.0
    for label in labels:
        of = [s for s in data.last_samples if s.label == label]
        tokens = sum(len(s.token_ids) for s in of)
        assert row[f"label/{label}/reward"] == pytest.approx(sum(s.reward for s in of) / len(of))
        assert row[f"label/{label}/coefficient"] == pytest.approx(0.25)
        total += row[f"label/{label}/entropy"] * tokens
    assert total / sum(len(s.token_ids) for s in data.last_samples) == pytest.approx(row["rollout/entropy"], rel=1e-4)
    assert math.isfinite(total)


def test_sources_with_many_labels_are_not_split(runs, tmp_path):
    runs.fit([LabelFigures(most=1), MetricsHistory()])
    assert not any(name.startswith("label/") for row in read_rows(tmp_path / "metrics.csv") for name in row)
