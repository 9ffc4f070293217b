import lightning.pytorch as pl
import pytest

from aer_lightning.callbacks.curves import Curves
from aer_lightning.callbacks.history import MetricsHistory
from aer_lightning.callbacks.initial_validation import InitialValidation
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.errors import ConfigError
from aer_lightning.reporting import curves


@pytest.fixture
def drawn(monkeypatch):
    """(rollouts, evaluations) of every picture; drawing itself is tested with ``reporting``."""
    calls = []

    def draw(run, title):
        calls.append((len(run), len(run.evaluations), title))
        return b"picture %d" % len(calls)

    monkeypatch.setattr(curves, "draw_curves", draw)
    return calls


def fit(runs, tmp_path, callback, history=None, **kwargs):
    history = [MetricsHistory()] if history is None else history
    data = runs.data(evaluation=[CountdownPrompts(split="validation", numbers=(2,), size=2)], rollouts_per_epoch=1)
    return runs.fit([*history, InitialValidation(), callback], data=data, **({"max_epochs": 3} | kwargs))


def test_redrawn_after_validations_and_at_the_end(runs, tmp_path, drawn):
    fit(runs, tmp_path, Curves())
    assert [d[:2] for d in drawn] == [(1, 2), (2, 3), (3, 4), (3, 4)]
    assert (tmp_path / "curves.png").read_bytes() == b"picture 4"
    assert drawn[-1][2].endswith(f"{tmp_path.name} · 3 rollouts")


def test_every(runs, tmp_path, drawn):
    fit(runs, tmp_path, Curves(every=2))
    assert [d[0] for d in drawn] == [2, 3]


def test_zero_draws_at_the_end_alone(runs, tmp_path, drawn):
    fit(runs, tmp_path, Curves(every=0))
    assert [d[0] for d in drawn] == [3]


@pytest.mark.parametrize(("callback", "kwargs"), [(Curves(enabled=False), {}), (Curves(), {"history": []})])
def test_nothing_to_draw(runs, tmp_path, drawn, callback, kwargs):
    fit(runs, tmp_path, callback, **kwargs)
    assert not drawn and not (tmp_path / "curves.png").exists()


def test_a_real_picture(runs, tmp_path):
    fit(runs, tmp_path, Curves(every=0), max_epochs=1)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_impossible_every():
    assert isinstance(Curves(), pl.Callback)
    with pytest.raises(ConfigError, match=r"^curves\.every"):
        Curves(every=-1)
