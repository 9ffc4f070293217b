from types import SimpleNamespace

import pytest
import rich
from rich.console import Console
from torch import tensor

from aer_lightning.callbacks import EntropyAnchor, GlobalCoefficient
from aer_lightning.callbacks.initial_validation import InitialValidation
from aer_lightning.callbacks.progress import RolloutProgressBar, evaluation_parts, figures, total_rollouts
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.errors import ConfigError

METRICS = {
    "rollout/index": tensor(11.0),
    "rollout/reward": tensor(0.4123),
    "rollout/entropy": tensor(0.4),
    "aer/target_entropy": tensor(0.336),
    "aer/alpha": tensor(0.0512),
    "rollout/generate_tokens_per_second": tensor(5210.4),
    "train/loss": tensor(1.0),
}


def test_figures_of_a_rollout():
    shown = {"rollout": "12/200", "reward": "0.412", "H/H*": "0.400/0.336", "alpha": "0.0512", "tokens/s": "5,210"}
    assert figures(METRICS, 200) == shown
    plain = {k: v for k, v in METRICS.items() if not k.startswith("aer/")}
    assert figures(plain) == {"rollout": "12", "reward": "0.412", "H": "0.400", "tokens/s": "5,210"}
    assert figures({}) == {}


def test_figures_of_a_rival_name_what_steers_the_loss():
    assert figures({"rollout/index": 0, "feedback/zeta": -0.00125, "feedback/at_limit": 0.0}) == {"rollout": "1", "zeta": "-0.00125"}


def test_figures_of_an_evaluation():
    metrics = {
        "val/a/pass@8": 0.5,
        "val/a/pass@1": 0.25,
        "val/a/x/pass@1": 0.1,
        "val/a/reward": 0.25,
        "test/b/pass@1": 0.75,
        "val/mytest/pass@1": 0.5,
    }
    assert evaluation_parts(metrics) == ["a pass@1 0.250 pass@8 0.500", "b pass@1 0.750", "mytest pass@1 0.500"]


@pytest.mark.parametrize(("epochs", "steps", "expected"), [(3, -1, 15), (3, 8, 4), (-1, 7, 4), (None, -1, None)])
def test_total_rollouts(epochs, steps, expected):
    data = SimpleNamespace(rollouts_per_epoch=5, sizes=SimpleNamespace(steps=2))
    assert total_rollouts(SimpleNamespace(max_epochs=epochs, max_steps=steps, datamodule=data)) == expected


def fit(runs, bar):
    data = runs.data(evaluation=[CountdownPrompts(split="validation", numbers=(2,), size=2)], rollouts_per_epoch=3)
    runs.fit([EntropyAnchor(), GlobalCoefficient(), InitialValidation(), bar], data=data, max_epochs=2, enable_progress_bar=True)


def test_lines_where_output_is_no_terminal(runs, capsys, monkeypatch):
    monkeypatch.setattr(rich, "_console", Console(force_terminal=False))
    fit(runs, RolloutProgressBar(every=2))
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith(("rollout", "after"))]
    assert [line.split("  ")[0].rstrip(":") for line in lines if line.startswith("rollout")] == [
        "rollout 1/6",
        "rollout 2/6",
        "rollout 4/6",
        "rollout 6/6",
    ]
    assert [line.split(":")[0] for line in lines if line.startswith("after")] == [
        "after 0 rollouts",
        "after 3 rollouts",
        "after 6 rollouts",
    ]
    assert "left 0:0" in lines[2] and "pass@1" in lines[0] and "H/H*" in lines[1] and "alpha" in lines[1]
    assert "\x1b" not in out and "\r" not in out


def test_no_lines(runs, capsys, monkeypatch):
    monkeypatch.setattr(rich, "_console", Console(force_terminal=False))
    fit(runs, RolloutProgressBar(every=0))
    assert "rollout" not in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["120", "80"])
def test_bar_on_a_terminal(runs, capsys, monkeypatch, columns):
    monkeypatch.setattr(rich, "_console", None)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", columns)
    fit(runs, RolloutProgressBar(refresh_rate=50))
    out = capsys.readouterr().out
    assert "\x1b" in out and "after 3 rollouts: countdown pass@1" in out
    last = [line for line in out.replace("\r", "\n").splitlines() if "rollout 6/6" in line][-1]
    shown = ("reward", "H/H*", "alpha", "left") + (("tokens/s",) if columns == "120" else ())
    assert all(name in last for name in shown), f"on one line of a terminal of {columns} columns"


@pytest.mark.parametrize(("kwargs", "name"), [({"every": -1}, "every"), ({"refresh_rate": -1}, "refresh_rate")])
def test_impossible_options(kwargs, name):
    with pytest.raises(ConfigError, match=rf"^progress\.{name}"):
        RolloutProgressBar(**kwargs)
