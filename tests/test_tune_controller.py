"""``tune-controller`` on fabricated logs: gains that fit what made the log, and one line for a log that cannot tell."""

import csv

import numpy as np
import pytest
import yaml

from aer_lightning.__main__ import main
from aer_lightning.callbacks import GlobalCoefficient
from aer_lightning.reporting.plant import propose


@pytest.fixture
def make_log(tmp_path):
    def make(gain=0.3, rollouts=150, weight=1.0, moving=True, columns=True, name="run"):
        random, x, rows = np.random.default_rng(0), np.log(0.5), []
        alpha = np.repeat(np.random.default_rng(1).uniform(-0.05, 0.2, rollouts // 10), 10) if moving else np.full(rollouts, 0.05)
        for k in range(rollouts):
            row = {"rollout/index": k, "rollout/entropy": np.exp(x + 0.06 * random.standard_normal()), "aer/alpha": alpha[k]}
            rows.append(row | ({"aer/mean_coefficient": weight * alpha[k]} if columns else {}))
            x += gain * weight * alpha[k] - 0.02 + 0.01 * random.standard_normal()
        folder = tmp_path / name
        folder.mkdir()
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        rate = {
            "model": {"init_args": {"optimizer": {"init_args": {"lr": 1e-4}}}},
            "data": {"init_args": {"optimizer_steps_per_rollout": 3}},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(rate))
        return folder

    return make


def tuned(capsys, *arguments):
    """The proposal as ``GlobalCoefficient`` takes it, and everything printed."""
    assert main(["tune-controller", *map(str, arguments)]) == 0
    out = capsys.readouterr().out
    return yaml.safe_load(out[out.index("# init_args") :]), out


def test_the_proposal_fits_the_plant_and_is_a_configuration(make_log, capsys):
    options, out = tuned(capsys, make_log())
    expected = propose(0.3)
    assert options["kp"] == pytest.approx(expected.kp, rel=0.25) and options["ki"] == pytest.approx(expected.ki, rel=0.25)
    assert GlobalCoefficient(**options).controller.kp == options["kp"] and options["rate"] == pytest.approx(3e-4)
    assert "learning rate 0.0001 x 3 optimizer steps" in out and "stable up to 7.0 times" in out


def test_a_plant_that_answers_faster_gets_less_gain(make_log, capsys):
    slow, fast = (tuned(capsys, make_log(gain=gain, name=f"run{gain}"))[0] for gain in (0.2, 0.8))
    assert slow["kp"] == pytest.approx(4 * fast["kp"], rel=0.3)


def test_options_change_the_proposal(make_log, capsys):
    folder = make_log()
    default, slow, smooth = (tuned(capsys, folder, *more)[0] for more in ([], ["--time-constant", 16], ["--smoothing", 0.7]))
    assert slow["kp"] == pytest.approx(default["kp"] / 2, rel=0.01) and slow["ki"] == pytest.approx(default["ki"] / 4, rel=0.02)
    assert smooth["smoothing"] == 0.7
    assert tuned(capsys, folder, "--skip", 60)[0]["kp"] != default["kp"]


def test_weights_that_are_not_normalised_are_made_up_for(make_log, capsys):
    whole, _ = tuned(capsys, make_log(weight=1.0, name="whole"))
    quarter, out = tuned(capsys, make_log(weight=0.25, gain=1.2, name="quarter"))
    assert "0.25 of alpha reached the loss" in out
    assert quarter["kp"] == pytest.approx(whole["kp"], rel=0.01), "the same answer to alpha, whatever lies between"


@pytest.mark.parametrize(
    ("log", "arguments", "words"),
    [
        ({"moving": False}, [], ["cannot be told", "controller: sign"]),
        ({"columns": False}, [], ["metrics.csv", "aer/mean_coefficient"]),
        ({"rollouts": 30}, [], ["30 rollouts", "40 or more"]),
        ({}, ["--time-constant", "0"], ["--time-constant", "at least 1"]),
        ({}, ["--smoothing", "1"], ["--smoothing", "below 1"]),
        ({}, ["--skip", "-1"], ["--skip"]),
        ({}, ["--skip", "140"], ["10 rollouts"]),
    ],
)
def test_what_will_not_do_gets_one_line(make_log, capsys, log, arguments, words):
    assert main(["tune-controller", str(make_log(**log)), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ")
    assert all(word in err for word in words), err


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert main(["tune-controller", str(tmp_path)]) == 2
    assert "no metrics.csv" in capsys.readouterr().err


def test_it_is_in_the_table_of_commands(capsys):
    assert main(["--help"]) == 0
    assert "tune-controller" in capsys.readouterr().out
    assert main(["tune-controller", "--help"]) == 0
