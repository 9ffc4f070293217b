"""The command: what it prints and refuses, and a tiny study that is real."""

from __future__ import annotations

import csv
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from aer_lightning.study.command import _command, changes, main, parse
from aer_lightning.study.plan import read_plan
from aer_lightning.study.results import budget


def test_dry_run_prints_the_plan_and_runs_nothing(tmp_path, capsys):
    def never(*_):
        raise AssertionError("something was run")

    assert main(["--dry-run", "--runs", str(tmp_path / "runs"), "--jobs", "2"], launch=never) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("grpo", "dapo", "aer", "no_controller")) and "on 2 cores" in out and "EntropyAnchor.tau=0.5" in out
    assert not (tmp_path / "runs").exists()


def edited(tmp_path, edit):
    raw = yaml.safe_load(Path("configs/study/plan.yaml").read_text())
    edit(raw)
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(raw))
    return str(path)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda p: p["methods"]["dapo"]["search"].pop(), ["plan.yaml", "same number"]),
        (lambda p: p["methods"]["dapo"].update(serach=[]), ["methods.dapo", "serach"]),
        (lambda p: p["methods"]["aer"].update(search={"EntropyAnchor.tau": 0.5}), ["methods.aer.search", "list"]),
        (
            lambda p: p["methods"]["aer"].update(search={"EntropyAnchor.tau": [0.5], "EntropyAnchor.absolute": [1, 2]}),
            ["methods.aer.search", "same length"],
        ),
        (lambda p: p.pop("search"), ["plan.yaml: search", "candidates"]),
        (lambda p: p.pop("seeds"), ["plan.yaml", "seeds"]),
        (lambda p: p.update(rollouts=33), ["rollouts", "33", "rollouts_per_epoch=25"]),
        (lambda p: p["methods"]["aer_tau_0.3"].update(like="nothing"), ["aer_tau_0.3.like", "nothing"]),
        (lambda p: p["methods"]["grpo"].update(set={"EntropyAnchor.tau": 1}), ["EntropyAnchor", "FixedCoefficient"]),
        (lambda p: p["search"].update(seed=2), ["seeds", "differ"]),
        (lambda p: p["reports"]["targets"].append("typo"), ["reports.targets", "typo"]),
        (lambda p: p["claims"]["targets"].append("typo"), ["plan.yaml: claims", "typo"]),
        (lambda p: p["claims"].update(tragets=[]), ["plan.yaml", "claims.tragets"]),
        (lambda p: p.update(base="configs/nothing.yaml"), ["configs/nothing.yaml", "root of the repository"]),
    ],
)
def test_plans_that_make_no_sense_are_refused_in_one_line(tmp_path, capsys, edit, words):
    assert main(["--plan", edited(tmp_path, edit), "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and all(word in line for word in words), line


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--set", "lr"], "OPTION=VALUE"),
        (["--set", "lr={"], "YAML"),
        (["--only", "typo"], "typo"),
        (["--jobs", "0"], "--jobs"),
        (["--plan", "no.yaml"], "no.yaml"),
    ],
)
def test_bad_options(capsys, arguments, word):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and word in line


def test_an_option_can_be_set_for_every_run(tmp_path):
    """It lies over all that the plan says, a method's own options too; where a callback is not there its option is left out."""
    given = ["--set", "model.init_args.pretrained=elsewhere", "EntropyAnchor.tau=0.9", "GlobalCoefficient.kp=0.1"]
    options = changes(given[1:])
    plan = replace(read_plan("configs/study/plan.yaml"), options=options)
    grpo, aer = ([r.config for r in plan.final_runs({}) if r.method == name] for name in ("grpo", "aer"))
    assert all(c["model"]["init_args"]["pretrained"] == "elsewhere" for c in [*grpo, *aer]) and len(grpo) == len(aer) == 3
    for config in aer:
        anchor, controller, _ = (callback["init_args"] for callback in config["trainer"]["callbacks"])
        assert anchor["tau"] == 0.9 and controller["kp"] == 0.1
    assert main(["--only", "grpo", "--runs", str(tmp_path), "--out", str(tmp_path / "out"), *given], launch=lambda *_: 1) == 2
    config = yaml.safe_load((tmp_path / "grpo/seed1.yaml").read_text())
    assert config["model"]["init_args"]["pretrained"] == "elsewhere"
    assert _command(parse(["--only", "grpo", *given])).endswith(f"study --only grpo {' '.join(given)}"), (
        "results say how they are made again"
    )


class InProcess:
    """Runs the command line here; one command at a time, and the first one of a folder in ``stop`` ends an epoch early."""

    def __init__(self, stop=()):
        self.stop, self.lock, self.commands = set(stop), threading.Lock(), []

    def __call__(self, arguments, log):
        from aer_lightning.__main__ import main as run

        with self.lock:
            self.commands.append(list(arguments))
            folder = Path(arguments[arguments.index("--run_dir") + 1])
            name = f"{folder.parent.parent.name}/{folder.parent.name}"
            if name in self.stop:
                self.stop.discard(name)
                assert run([*arguments, "--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1"]) == 0
                (folder / "summary.json").unlink()
                return 1
            return run(list(arguments))


def rows_of(folder):
    with (folder / "metrics.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r.get("rollout/index")]
    return [(r["rollout/index"], r["rollout/entropy"], r["rollout/reward"], r["train/loss"]) for r in rows]


def test_a_tiny_study_runs_resumes_and_reports(tmp_path, capsys):
    """Two candidates, two methods, two rollouts each; AER's run is interrupted after its first epoch."""
    arguments = ["--quick", "--jobs", "1", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    launch = InProcess(stop=["runs/aer"])
    assert main(arguments, launch=launch) == 2
    captured = capsys.readouterr()
    assert "1 runs failed" in captured.err and "not finished: aer" in captured.out
    assert len(launch.commands) == 4, "search of two, then two methods"
    assert main(arguments, launch=launch) == 0
    assert len(launch.commands) == 5 and launch.commands[-1] == launch.commands[-2], "only what had not finished"
    out = tmp_path / "out"
    with (out / "results.csv").open() as file:
        results = {row["method"]: row for row in csv.DictReader(file)}
    assert set(results) == {"aer", "grpo"}
    for row in results.values():
        assert (row["rollouts"], row["completions"], row["optimizer_steps"], row["completions_generated"]) == ("2", "48", "6", "48")
        assert 0 <= float(row["countdown/pass@1"]) <= 1 and float(row["last_entropy"]) > 0
    with (out / "search.csv").open() as file:
        search = list(csv.DictReader(file))
    assert [row["candidate"] for row in search] == ['{"EntropyAnchor.tau": 0.5}', '{"EntropyAnchor.tau": 0.3}']
    assert [row["chosen"] for row in search].count("True") == 1
    facts = json.loads((out / "study.json").read_text())
    assert facts["chosen"]["aer"] in ({"EntropyAnchor.tau": 0.5}, {"EntropyAnchor.tau": 0.3}) and facts["machine"]["cores"]
    findings = (out / "findings.md").read_text()
    assert "## Does the entropy collapse?" in findings and "2 of " in findings and "tracked" not in findings
    assert not (out / "headline.png").exists(), "four samples have no pass@32"
    report = (out / "baselines" / "report.html").read_text()
    assert "Does the entropy collapse?" in report
    assert "grpo" in report and "aer" in report and (out / "baselines" / "entropy.png").stat().st_size > 1000
    assert not (out / "targets").exists(), "one method alone is no comparison"
    runs = tmp_path / "runs"
    assert not list(runs.rglob("*.ckpt")) and not list(runs.rglob("*.interrupted"))
    # The rows before the interruption are those of the run that was interrupted, those after it follow on.
    resumed = rows_of(runs / "aer" / "seed1")
    assert [float(r[0]) for r in resumed] == [0.0, 1.0]
    from aer_lightning.reporting.runs import read_run

    assert budget(read_run(str(runs / "aer" / "seed1")))["completions"] == 48
    whole = tmp_path / "whole"
    command = [part.replace(str(runs / "aer" / "seed1"), str(whole)) if i == 4 else part for i, part in enumerate(launch.commands[-1][:5])]
    assert InProcess()(command, tmp_path / "log") == 0
    assert rows_of(whole) == resumed, "as an uninterrupted run of the same configuration"
