from pathlib import Path

import numpy as np
import pytest

from aer_lightning.errors import DataError
from aer_lightning.reporting.run_metrics import collect_rows, read_metrics, smooth, split_sources


def test_reads_rollouts_and_evaluations(make_run):
    run = read_metrics(make_run(rollouts=10))
    assert run.index.tolist() == list(range(10)) and len(run) == 10
    assert run.column("rollout/entropy") == pytest.approx(np.linspace(0.4, 0.3, 10))
    assert run.column("aer/alpha")[-1] == run.last("aer/alpha") == pytest.approx(0.09)
    assert (run.anchor, run.target) == (0.4, 0.32)
    assert [e.rollouts for e in run.evaluations] == [0, 5, 10]
    assert run.sources() == ["countdown"] and run.ks("countdown") == [1, 8]
    assert run.labels("countdown") == ["2 numbers", "3 numbers"]
    x, y = run.evaluated("countdown", "3 numbers/pass@8")
    assert x.tolist() == [0, 5, 10] and y == pytest.approx([0.5, 0.54, 0.59])


def test_what_was_never_logged_is_nan_and_not_an_error(make_run):
    run = read_metrics(make_run(alpha=False, target=None))
    assert np.isnan(run.column("aer/alpha")).all() and np.isnan(run.last("aer/alpha")) and np.isnan(run.target)
    assert run.anchor == pytest.approx(0.4), "the first rollout's entropy is H_0 also where no anchor logs it"
    assert run.evaluated("countdown", "pass@64")[0].size == 0


def test_anchor_of_a_run_that_begins_in_the_middle_is_unknown():
    assert np.isnan(collect_rows([{"rollout/index": 7, "rollout/entropy": 0.3, "step": 7}]).anchor)


def test_values_repeated_at_later_optimizer_steps_count_once():
    # Two optimizer steps per rollout: nothing at the first step of all, then each rollout's values at its last step and once more.
    rows = [
        {"step": 1, "rollout/index": 0, "rollout/reward": 0.1},
        {"step": 2, "rollout/index": 0, "rollout/reward": 0.1},
        {"step": 3, "rollout/index": 1, "rollout/reward": 0.2},
        {"step": 3, "val/c/pass@1": 0.5},
        {"step": 4, "rollout/index": 1, "rollout/reward": 0.2},
        {"step": 5, "rollout/index": 2, "rollout/reward": 0.3},
    ]
    run = collect_rows(rows)
    assert run.column("rollout/reward").tolist() == [0.1, 0.2, 0.3]
    assert run.evaluations[0].rollouts == 2


def test_sources_and_labels_are_told_apart():
    values = {"val/math/pass@1": 0.1, "val/math/level 1/pass@1": 0.2, "val/gsm8k/easy/one/pass@8": 0.3, "val/gsm8k/pass@8": 0.4}
    assert split_sources(values) == {
        "math": {"pass@1": 0.1, "level 1/pass@1": 0.2},
        "gsm8k": {"easy/one/pass@8": 0.3, "pass@8": 0.4},
    }


def test_smooth_is_the_mean_over_the_window_without_nan():
    values = np.array([1.0, 2.0, np.nan, 4.0, 9.0, 1.0])
    expected = [np.nanmean(values[max(0, i - 1) : i + 2]) for i in range(len(values))]
    assert smooth(values, 3) == pytest.approx(expected)
    assert smooth(values, 1) is values


def test_missing_and_malformed_files_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"no metrics\.csv"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,rollout/reward\n0,0.5\n1,half\n")
    with pytest.raises(DataError, match=r"metrics\.csv:3: 'rollout/reward' is no number"):
        read_metrics(tmp_path)
