import numpy as np
import pytest

from aer_lightning.reporting import comparison_figures
from aer_lightning.reporting.counts import pass_at_ks
from aer_lightning.reporting.run_metrics import smooth
from aer_lightning.reporting.runs import group_runs, read_run

GRPO = {"name": "grpo", "trainer.callbacks": []}


@pytest.fixture
def figures(monkeypatch):
    """The figures as they were drawn, in place of their pixels."""
    monkeypatch.setattr(comparison_figures, "png", lambda figure: figure)

    def draw(*folders):
        methods = group_runs([read_run(str(f)) for f in folders])
        return methods, {p.name: p for p in comparison_figures.draw_all(methods)}

    return draw


@pytest.fixture
def folders(make_run):
    return [
        make_run("a1", correct=[8, 8, 4, 2], rollouts=50),
        make_run("a2", {"seed_everything": 2}, correct=[8, 6, 4, 0], rollouts=50, seed=1, target=0.36),
        make_run("g1", GRPO, correct=[8, 0, 0, 0], rollouts=50, target=None, alpha=False),
    ]


def test_curves_are_means_over_seeds(folders, figures):
    (aer, _), drawn = figures(*folders)
    (axes,) = drawn["reward"].data.axes
    line, plain = axes.lines
    rows = [smooth(run.metrics.column("rollout/reward"), 2) for run in aer.runs]
    assert line.get_xdata().tolist() == list(range(1, 51)) and line.get_ydata() == pytest.approx(np.mean(rows, 0))
    assert line.get_color() != plain.get_color() and line.get_marker() != plain.get_marker()
    assert [t.get_text() for t in drawn["reward"].data.legends[0].get_texts()] == ["aer (2 seeds)", "grpo"]


def test_entropy_has_its_levels(folders, figures):
    _, drawn = figures(*folders)
    (axes,) = drawn["entropy"].data.axes
    assert {t.get_text(): t.xy[1] for t in axes.texts} == {"$H_0$": pytest.approx(0.4), "$H^*$": pytest.approx(0.34)}
    assert "H_0" in drawn["entropy"].caption and "H*" in drawn["entropy"].caption


def test_several_targets_are_told_apart(make_run, figures):
    _, drawn = figures(make_run("a", target=0.2), make_run("b", {"name": "other"}, target=0.3))
    (axes,) = drawn["entropy"].data.axes
    assert [t.get_text() for t in axes.texts][1:] == ["$H^*$ of aer", "$H^*$ of other"]


def test_alpha_leaves_out_methods_without_one(folders, figures):
    _, drawn = figures(*folders)
    assert len(drawn["alpha"].data.axes[0].lines) == 1


def test_pass_at_k_against_k_by_label(folders, figures):
    (aer, grpo), drawn = figures(*folders)
    overall, *labels = drawn["pass_at_k"].data.axes
    assert [a.get_title(loc="left") for a in labels] == ["2 numbers", "3 numbers"]
    before, first, second = overall.lines[0], *(c[0] for c in overall.containers)
    expected = [pass_at_ks(run.counts["countdown"].problems, [1, 2, 4, 8]) for run in aer.runs]
    assert first.get_xdata().tolist() == [1, 2, 4, 8]
    assert first.get_ydata() == pytest.approx([np.mean([e[k] for e in expected]) for k in (1, 2, 4, 8)])
    assert second.get_ydata()[-1] == pytest.approx(0.25) and grpo.seeds == 1
    assert before.get_ydata()[0] == pytest.approx(1 / 32), "the initial policy"
    two = labels[0].containers[0][0].get_ydata()
    assert two[0] == pytest.approx((16 + 14) / 32)


def test_frontier_ends_at_the_last_evaluation(folders, figures):
    _, drawn = figures(*folders)
    (axes,) = drawn["frontier"].data.axes
    path, end, start = axes.lines[:3]
    assert (end.get_xdata()[0], end.get_ydata()[0]) == (pytest.approx(0.79), pytest.approx(1.09))
    assert (start.get_xdata()[0], start.get_ydata()[0]) == (0.3, 0.6) and len(path.get_xdata()) == 11


def test_pictures_without_data_are_left_out(make_run, figures):
    _, drawn = figures(make_run("g", GRPO, target=None, alpha=False))
    assert "alpha" not in drawn and "pass_at_k" not in drawn and "entropy" in drawn


def test_the_headline_shows_where_methods_end(folders, monkeypatch):
    monkeypatch.setattr(comparison_figures, "png", lambda figure: figure)
    methods = group_runs([read_run(str(f)) for f in folders])
    left, right = comparison_figures.draw_headline(methods, k=4).data.axes
    assert len(left.containers) == 0 and "$H_0$" in [t.get_text() for t in left.texts]
    ends = [pass_at_ks(run.counts["countdown"].problems, (1, 4)) for run in methods[0].runs]
    marker = right.containers[0][0]
    assert (marker.get_xdata()[0], marker.get_ydata()[0]) == pytest.approx(tuple(np.mean([e[k] for e in ends]) for k in (1, 4)))
    assert right.containers[0].has_xerr and not right.containers[1].has_xerr, "one seed has no error"
    assert right.get_ylabel() == "pass@4" and [t.get_text() for t in right.texts] == ["initial"]
    assert comparison_figures.draw_headline(methods, k=32) is None, "eight samples say nothing of 32"
