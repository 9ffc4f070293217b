import math
import statistics

import numpy as np
import pytest

from aer_lightning.reporting.runs import group_runs, read_run
from aer_lightning.reporting.statistics import (
    Estimate,
    Figure,
    all_figures,
    area,
    best,
    compare_methods,
    estimate,
    in_band,
    run_figures,
)


def test_area_is_the_trapezoid_rule():
    assert area(np.array([0.0, 1.0, 0.0])) == pytest.approx(0.5)
    assert area(np.array([0.2, np.nan, 0.4])) == pytest.approx(0.3)
    assert area(np.array([0.7])) == 0.7 and math.isnan(area(np.array([])))


def test_in_band_counts_both_sides_of_the_target():
    entropy = np.array([0.84, 0.86, 1.0, 1.14, 1.16, np.nan])
    assert in_band(entropy, 1.0) == pytest.approx(3 / 5)
    assert math.isnan(in_band(entropy, math.nan))


def test_estimate_is_mean_and_standard_error():
    values = [0.2, 0.5, 0.6]
    found = estimate([*values, math.nan])
    assert (found.mean, found.seeds) == (pytest.approx(statistics.mean(values)), 3)
    assert found.error == pytest.approx(statistics.stdev(values) / 3**0.5)
    assert estimate([0.3]).mean == 0.3 and math.isnan(estimate([0.3]).error) and estimate([]).seeds == 0


def test_figures_of_a_run(make_run):
    figures = run_figures(read_run(str(make_run(correct=[8, 4, 1, 0]))))
    assert figures["countdown/pass@1"] == pytest.approx(13 / 32, abs=1e-6), "from the counts, not from the log"
    assert math.isnan(figures["countdown/pass@32"]), "8 samples say nothing of 32"
    assert figures["countdown/distinct_correct"] == pytest.approx((2 + 2 + 1 + 0) / 4)
    assert figures["reward_area"] == pytest.approx(0.39, abs=0.005)
    assert figures["last_entropy"] == pytest.approx(0.3 / 0.4)
    entropy = np.linspace(0.4, 0.3, 10)
    assert figures["in_band"] == pytest.approx((abs(entropy - 0.32) <= 0.048).mean())
    assert figures["in_band_late"] == 1.0
    assert figures["tokens_per_second"] == pytest.approx(1004.5)


def test_without_counts_the_last_logged_evaluation_is_taken(make_run):
    figures = run_figures(read_run(str(make_run())))
    assert (figures["countdown/pass@1"], figures["countdown/pass@8"]) == (pytest.approx(0.39), pytest.approx(0.69))


def test_methods_are_compared_over_seeds(make_run):
    grpo = {"name": "grpo", "trainer.callbacks": []}
    folders = [
        make_run("a1", correct=[8, 8, 8, 8]),
        make_run("a2", {"seed_everything": 2}, correct=[8, 8, 8, 0]),
        make_run("g1", grpo, correct=[8, 0, 0, 0], target=None, alpha=False),
    ]
    methods = group_runs([read_run(str(f)) for f in folders])
    table = compare_methods(methods)
    assert table["aer"]["countdown/pass@8"].mean == pytest.approx(0.875)
    assert table["aer"]["countdown/pass@8"].error == pytest.approx(0.125)
    assert table["grpo"]["in_band"].seeds == 0, "no target, no band"
    keys = [f.key for f in all_figures(methods)]
    assert "countdown/pass@32" not in keys and keys.index("countdown/pass@8") < keys.index("reward_area")
    assert best(table, next(f for f in all_figures(methods) if f.key == "countdown/pass@1")) == {"aer"}


def test_best_follows_the_better_side():
    table = {name: {"x": Estimate(value, math.nan, 1)} for name, value in (("a", 1.0), ("b", 2.0), ("c", math.nan))}
    assert best(table, Figure("x", "", "", better=1)) == {"b"}
    assert best(table, Figure("x", "", "", better=-1)) == {"a"}
    assert best(table, Figure("x", "", "")) == set()
