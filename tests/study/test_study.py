"""The study: its plan is fair, its runs are what the command line would build, it goes on where it stopped, and a tiny one is real."""

from __future__ import annotations

import csv
import json
import logging
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from aer_lightning.errors import ConfigError, DataError
from aer_lightning.study.command import main
from aer_lightning.study.configuration import callback_names, change, merge, read_yaml
from aer_lightning.study.plan import Run, read_plan
from aer_lightning.study.results import budget, search_score
from aer_lightning.study.runner import Processes, check_finished, complete, finished, interrupted, prepare, run_all

ROOT = Path(__file__).parents[2]
METHODS = {"grpo", "dapo", "fixed_entropy", "skywork", "clip_cov", "kl_cov", "aent", "aer", "no_difficulty", "no_anchor", "no_controller"}


@pytest.fixture(autouse=True)
def _repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def plan():
    return read_plan("configs/study/plan.yaml")


# -- the plan -----------------------------------------------------------------------------------------------------------------------


def test_every_method_runs_with_three_seeds_or_more_on_enough_problems(plan):
    assert plan.methods.keys() >= METHODS and len(plan.seeds) >= 3
    runs = plan.final_runs({})
    assert len({run.folder for run in plan.search_runs()}) == len(plan.search_runs())
    for name in METHODS:
        assert [run.config["seed_everything"] for run in runs if run.method == name] == list(plan.seeds)
    data = runs[0].config["data"]["init_args"]
    assert data["eval_samples"] == 64 and sum(s["init_args"]["size"] for s in data["evaluation"]) >= 256


def test_methods_that_come_to_the_same_share_a_run(plan):
    for chosen in (0.3, 0.5, 0.7):
        runs = plan.final_runs({"aer": {"EntropyAnchor.tau": chosen}})
        shared = {(r.method, r.label): r for r in runs if r.folder.parts[0] != r.method}
        assert {key for key in shared if key[0].startswith("aer")} == {(f"aer_tau_{chosen}", f"seed{s}") for s in plan.seeds}
        assert all(run.config["name"] == "aer" for (name, _), run in shared.items() if name.startswith("aer"))
        assert len({r.folder for r in runs}) == len(runs) - len(shared)


def test_whole_seeds_come_first(plan):
    counts = [plan.methods[r.method].seeds for r in plan.final_runs({})]
    assert counts == sorted(counts, key=lambda c: c is not None)
    labels = [r.label for r in plan.final_runs({}) if plan.methods[r.method].seeds is None]
    assert labels == sorted(labels)


def test_budgets_and_task_are_equal_across_all_methods(plan):
    """Sizes, length, task, evaluation, model and learning rate: a seed's runs differ in what makes the method, and in nothing else."""
    method = {"dynamic_sampling", "overlong", "mask_truncated"}

    def shared(run):
        config = json.loads(json.dumps(run.config))
        data = {k: v for k, v in config["data"]["init_args"].items() if k not in method}
        model = {k: v for k, v in config["model"]["init_args"].items() if k != "objective"}
        trainer = {k: v for k, v in config["trainer"].items() if k != "callbacks"}
        return [data, trainer, model if "_lr_" not in run.method else None, run.rollouts, config["seed_everything"]]

    for seed in plan.seeds:
        runs = [r for r in plan.final_runs({}) if r.config["seed_everything"] == seed]
        reference = shared(runs[0])
        assert reference[0]["prompts"]["init_args"]["seed"] == seed, "each seed has its own training problems"
        for run in runs:
            found = shared(run)
            assert found[:2] + found[3:] == reference[:2] + reference[3:], run.name
            assert found[2] in (None, reference[2]), run.name
    searches = plan.search_runs()
    assert len({json.dumps([shared(r)[0], shared(r)[1], r.rollouts]) for r in searches}) == 1
    assert all(r.config["data"]["init_args"]["evaluation"][0]["init_args"]["split"] == "train" for r in searches), (
        "not on the held-out ones"
    )


def test_every_search_has_the_same_number_of_candidates_and_they_differ(plan):
    assert {len(m.candidates) for m in plan.searched()} == {3}
    assert {m.name for m in plan.searched()} == METHODS - {"grpo", "no_difficulty", "no_anchor"}
    for method in plan.searched():
        made = [json.dumps(r.config) for r in plan.search_runs() if r.method == method.name]
        assert len(set(made)) == 3, method.name


def test_ablations_and_variants_take_what_was_chosen_for_aer(plan):
    runs = {r.method: r for r in plan.final_runs({"aer": {"EntropyAnchor.tau": 0.123}}) if r.label == "seed1"}

    def stack(name):
        return dict(
            zip(callback_names(runs[name].config), (c["init_args"] for c in runs[name].config["trainer"]["callbacks"]), strict=True)
        )

    assert stack("aer")["EntropyAnchor"]["tau"] == stack("no_difficulty")["EntropyAnchor"]["tau"] == 0.123
    assert "DifficultyCoefficient" not in stack("no_difficulty") and stack("no_anchor")["EntropyAnchor"]["absolute"] == 0.2
    assert stack("aer_tau_0.5")["EntropyAnchor"]["tau"] == 0.5 and stack("aer_eta_high")["EntropyAnchor"]["tau"] == 0.123
    assert stack("grpo") == {"FixedCoefficient": {"coefficient": 0.0}}


def test_a_run_is_what_the_command_line_makes_of_the_same_files(plan, capsys):
    """Lightning's own merging of files, against the study's."""
    from aer_lightning.cli import build

    def resolved(*arguments):
        with pytest.raises(SystemExit):
            build(["fit", *arguments, "--print_config"])
        config = yaml.safe_load(capsys.readouterr().out)
        config["data"]["init_args"]["prompts"]["init_args"].pop("seed")
        for key in ("seed_everything", "name"):
            config.pop(key)
        for key in ("max_epochs", "check_val_every_n_epoch"):
            config["trainer"].pop(key)
        return config

    import tempfile

    run = next(r for r in plan.final_runs({}) if r.method == "dapo")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.yaml")
        path.write_text(yaml.safe_dump(run.config))
        mine = resolved("-c", str(path))
    theirs = resolved("-c", "configs/aer.yaml", "-c", "configs/dapo.yaml", "-c", "configs/study/countdown.yaml")
    assert mine == theirs and mine["data"]["init_args"]["prompts_per_rollout"] == 30


def test_the_estimate_fits_three_hours_on_two_cores(plan):
    runs = [*plan.search_runs(), *plan.final_runs({})]
    hours = sum(map(plan.seconds, runs)) / 2 / 3600
    assert 1 < hours < 3.3
    dapo, grpo = (next(r for r in plan.final_runs({}) if r.method == name) for name in ("dapo", "grpo"))
    assert plan.seconds(dapo) > plan.seconds(grpo)


def test_dry_run_prints_the_plan_and_runs_nothing(tmp_path, capsys):
    def never(*_):
        raise AssertionError("something was run")

    assert main(["--dry-run", "--runs", str(tmp_path / "runs"), "--jobs", "2"], launch=never) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in METHODS) and "on 2 cores" in out and "EntropyAnchor.tau=0.5" in out
    assert not (tmp_path / "runs").exists()


def edited(tmp_path, edit):
    raw = yaml.safe_load((ROOT / "configs/study/plan.yaml").read_text())
    edit(raw)
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(raw))
    return str(path)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda p: p["methods"]["dapo"]["search"].pop(), ["plan.yaml", "same number"]),
        (lambda p: p["methods"]["dapo"].update(serach=[]), ["methods.dapo", "serach"]),
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
    ("arguments", "word"), [(["--only", "typo"], "typo"), (["--jobs", "0"], "--jobs"), (["--plan", "no.yaml"], "no.yaml")]
)
def test_bad_options(capsys, arguments, word):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and word in line


def test_one_method_alone_brings_what_it_depends_on():
    assert set(read_plan("configs/study/plan.yaml", only=["no_difficulty"]).methods) == {"no_difficulty", "aer"}


# -- configurations -------------------------------------------------------------------------------------------------------------------


def test_merging_replaces_lists_and_classes_and_merges_the_rest():
    first = {"a": {"b": 1, "c": [1, 2]}, "o": {"class_path": "X", "init_args": {"p": 1, "q": 2}}}
    assert merge(first, {"a": {"c": [3]}, "o": {"class_path": "Y", "init_args": {"r": 3}}}) == {
        "a": {"b": 1, "c": [3]},
        "o": {"class_path": "Y", "init_args": {"r": 3}},
    }
    assert merge(first, {"o": {"init_args": {"q": 5}}})["o"] == {"class_path": "X", "init_args": {"p": 1, "q": 5}}
    assert first["a"]["c"] == [1, 2]


def test_single_options_of_callbacks_and_of_the_rest():
    config = {"trainer": {"callbacks": [{"class_path": "a.b.One", "init_args": {"x": 1}}, {"class_path": "Two"}]}}
    changed = change(config, {"One.x": 2, "Two.y": 3, "model.init_args.lr": 0.1})
    assert changed["trainer"]["callbacks"] == [
        {"class_path": "a.b.One", "init_args": {"x": 2}},
        {"class_path": "Two", "init_args": {"y": 3}},
    ]
    assert changed["model"] == {"init_args": {"lr": 0.1}} and config["trainer"]["callbacks"][0]["init_args"] == {"x": 1}
    assert change(config, {"Three.z": 1}, skip_missing=True) == config
    with pytest.raises(ConfigError, match=r"Three.*One, Two"):
        change(config, {"Three.z": 1})


# -- running, with a launcher that trains nothing -------------------------------------------------------------------------------------


def fake_run(name="a", **config):
    return Run(name, "seed1", Path(name, "seed1"), {"name": name, **config}, rollouts=4)


class FakeLaunch:
    """Writes what a run leaves; stops half-way through a run of a name in ``stop``."""

    def __init__(self, stop=()):
        self.stop, self.commands, self.lock = set(stop), [], threading.Lock()

    def __call__(self, arguments, log):
        folder = Path(arguments[arguments.index("--run_dir") + 1])
        name = read_yaml(arguments[arguments.index("-c") + 1])["name"]
        with self.lock:
            self.commands.append(list(arguments))
        assert not folder.exists(), "fit refuses a folder that is there"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "last.ckpt").write_text("weights")
        resumed = "--ckpt_path" in arguments
        if resumed:
            assert Path(arguments[arguments.index("--ckpt_path") + 1]).is_file()
        (folder / "evaluation.jsonl").write_text("late\n" if resumed else "early\n")
        if name in self.stop:
            log.write_text("something\nerror: it was stopped\n")
            return 1
        (folder / "summary.json").write_text("{}")
        return 0


def test_finished_runs_are_left_alone(tmp_path):
    launch, runs, said = FakeLaunch(), [fake_run("a"), fake_run("b")], []
    assert run_all(runs[:1], tmp_path, 1, launch, lambda r: 60.0) == []
    assert run_all(runs, tmp_path, 2, launch, lambda r: 60.0, said.append) == []
    assert len(launch.commands) == 2 and "1 of 2 runs are finished already" in said[0] and said[-1].startswith("[2/2] b seed1 finished")
    assert not (tmp_path / "a" / "seed1" / "checkpoints").exists(), "a finished run needs no checkpoint"


def test_an_interrupted_run_goes_on_from_its_last_checkpoint(tmp_path):
    run, folder = fake_run(), tmp_path / "a" / "seed1"
    stopped = FakeLaunch(stop=["a"])
    (failure,) = run_all([run], tmp_path, 1, stopped, lambda r: 1.0, lambda _: None)
    assert failure == "a seed1: it was stopped" and not finished(folder)
    run_all([run], tmp_path, 1, stopped, lambda r: 1.0, lambda _: None)  # a second interruption
    assert interrupted(folder).exists()
    launch = FakeLaunch()
    assert run_all([run], tmp_path, 1, launch, lambda r: 1.0, lambda _: None) == []
    (command,) = launch.commands
    assert command[command.index("--ckpt_path") + 1] == str(interrupted(folder) / "checkpoints" / "last.ckpt")
    assert finished(folder) and not interrupted(folder).exists()
    assert (folder / "evaluation.jsonl").read_text() == "early\nlate\nlate\n", "no evaluation is lost"


def test_a_run_stopped_before_its_first_checkpoint_starts_again(tmp_path):
    run, folder = fake_run(), tmp_path / "a" / "seed1"
    prepare(run, tmp_path)
    folder.mkdir()
    (folder / "metrics.csv").write_text("half")
    assert "--ckpt_path" not in prepare(run, tmp_path) and not folder.exists()
    # The same after an earlier part that did get to a checkpoint.
    (interrupted(folder) / "checkpoints").mkdir(parents=True)
    (interrupted(folder) / "checkpoints" / "last.ckpt").write_text("weights")
    folder.mkdir()
    assert prepare(run, tmp_path)[-1] == str(interrupted(folder) / "checkpoints" / "last.ckpt") and not folder.exists()


def test_runs_of_another_plan_are_not_counted(tmp_path):
    run = fake_run(rate=5e-5)
    run_all([run], tmp_path, 1, FakeLaunch(), lambda r: 1.0, lambda _: None)
    check_finished([run], tmp_path)
    with pytest.raises(ConfigError, match=r"another plan.*--runs"):
        check_finished([replace(run, config={"name": "a", "rate": 6e-5})], tmp_path)


def test_one_failure_does_not_stop_the_others(tmp_path):
    launch = FakeLaunch(stop=["a"])
    failures = run_all([fake_run(n) for n in "abc"], tmp_path, 2, launch, lambda r: 1.0, lambda _: None)
    assert len(failures) == 1 and finished(tmp_path / "b" / "seed1") and finished(tmp_path / "c" / "seed1")


def test_completing_a_fresh_run_changes_no_evaluation(tmp_path):
    folder = tmp_path / "a" / "seed1"
    folder.mkdir(parents=True)
    (folder / "evaluation.jsonl").write_text("one\n")
    complete(fake_run(), tmp_path)
    assert (folder / "evaluation.jsonl").read_text() == "one\n"


def test_a_process_has_one_core_and_can_be_stopped(tmp_path, monkeypatch):
    log = tmp_path / "log"
    processes = Processes()
    assert processes(["--version"], log) == 0 and log.read_text().startswith("aer_lightning ")
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "$OMP_NUM_THREADS $*"\nexec sleep 60\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    status = []
    thread = threading.Thread(target=lambda: status.append(processes(["fit"], log)))
    thread.start()
    while not log.read_text().strip().endswith("fit"):
        thread.join(0.02)
    processes.stop()
    thread.join(20)
    assert log.read_text() == "1 -m aer_lightning fit\n" and status == [-signal.SIGTERM]
    assert processes(["fit"], log) == 130, "none starts after that"


# -- results -------------------------------------------------------------------------------------------------------------------------


def test_the_search_is_decided_by_the_mean_of_its_pass_at_k(tmp_path):
    rows = [{"step": 5, "source": "s", "id": f"p{i}", "n": 4, "correct": c, "distinct_correct": 1} for i, c in enumerate((0, 1, 2, 4))]
    (tmp_path / "evaluation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    # pass@1: (0 + 1/4 + 2/4 + 1) / 4; pass@2: (0 + 1/2 + 5/6 + 1) / 4.
    assert search_score(tmp_path, [1, 2]) == pytest.approx({"pass@1": 7 / 16, "pass@2": 7 / 12, "score": (7 / 16 + 7 / 12) / 2})
    with pytest.raises(DataError, match="8 samples"):
        search_score(tmp_path, [1, 8])


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
    assert len(launch.commands) == 5 and "--ckpt_path" in launch.commands[-1], "only what had not finished, from where it stopped"
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
