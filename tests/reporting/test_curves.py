import struct

import numpy as np
import pytest

from aer_lightning.reporting import curves, style
from aer_lightning.reporting.run_metrics import RunMetrics, read_metrics
from aer_lightning.reporting.style import write_atomically


@pytest.fixture
def figure(monkeypatch):
    """The figure that was drawn last."""
    drawn = []

    def keep(fig, *args, **kwargs):
        drawn.append(fig)
        return style.png(fig, dpi=40)

    monkeypatch.setattr(curves, "png", keep)
    return drawn


def panel(figure, title):
    return next(a for a in figure.axes if a.get_title(loc="left").startswith(title))


def levels(axes):
    return {t.get_text(): t.xy[1] for t in axes.texts}


def test_every_panel_shows_its_metric(make_run, figure):
    run = read_metrics(make_run(rollouts=60))
    data = curves.draw_curves(run, "title")
    assert data.startswith(b"\x89PNG") and struct.unpack(">II", data[16:24])[0] > 300
    (fig,) = figure
    for title, column in (("Reward", "rollout/reward"), ("Response length", "rollout/response_length"), ("Coefficient", "aer/alpha")):
        line = panel(fig, title).lines[0]
        assert line.get_xdata().tolist() == list(range(1, 61)) and line.get_ydata() == pytest.approx(run.column(column))
    assert levels(panel(fig, "Policy entropy")) == {"$H_0$": 0.4, "$H^*$": 0.32}
    overall = panel(fig, "pass@k, held-out")
    assert {line.get_label(): line.get_ydata()[0] for line in overall.lines} == {"pass@1": 0.3, "pass@8": 0.6}
    assert overall.lines[0].get_xdata()[0] == 0, "the evaluation before training stands at 0"
    labels = [t.get_text() for t in panel(fig, "pass@k by label").get_legend().get_texts()]
    assert labels == ["2 numbers", "3 numbers", "pass@1", "pass@8"]


def test_a_coefficient_below_zero_is_in_the_picture(make_run, figure):
    run = read_metrics(make_run(rollouts=20))
    run.columns["aer/alpha"] -= 0.1
    curves.draw_curves(run, "title")
    bottom, top = panel(figure[0], "Coefficient").get_ylim()
    assert bottom < -0.1 < top


def test_what_steers_the_loss_stands_in_the_place_of_a_coefficient(make_run, figure):
    run = read_metrics(make_run(rollouts=5))
    del run.columns["aer/alpha"]
    run.columns |= {"feedback/at_limit": np.zeros(5), "feedback/clip_high": np.linspace(0.2, 0.6, 5)}
    curves.draw_curves(run, "title")
    assert panel(figure[0], "What steers the loss: clip_high").lines[0].get_ydata() == pytest.approx(run.columns["feedback/clip_high"])


def test_a_run_without_target_coefficient_and_evaluation_says_so(make_run, figure):
    folder = make_run(target=None, alpha=False)
    run = read_metrics(folder)
    run.evaluations.clear()
    curves.draw_curves(run, "plain")
    (fig,) = figure
    assert "$H^*$" not in levels(panel(fig, "Policy entropy"))
    assert [t.get_text() for t in panel(fig, "Coefficient").texts] == ["not logged"]
    assert [t.get_text() for t in panel(fig, "pass@k").texts] == ["no evaluation yet"]


def test_nothing_logged_still_draws():
    assert curves.draw_curves(RunMetrics(np.array([])), "empty").startswith(b"\x89PNG")


def test_equal_data_gives_equal_bytes(make_run):
    run = read_metrics(make_run())
    assert curves.draw_curves(run, "t") == curves.draw_curves(run, "t") != curves.draw_curves(run, "other")


def test_files_are_replaced_whole(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and [p.name for p in tmp_path.iterdir()] == ["x.png"]
