"""The plan is fair, and its runs are what the command line would build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from aer_lightning.data.prompts import ArithmeticPrompts
from aer_lightning.errors import ConfigError
from aer_lightning.study.configuration import callback_names
from aer_lightning.study.plan import read_plan

RIVALS = {"repo_r", "adapo", "stare", "entropic", "pos_adv", "on_policy", "siren"}
METHODS = {"grpo", "dapo", "fixed_entropy", "skywork", "clip_cov", "kl_cov", "aent", "aer", "no_difficulty", "no_anchor", "no_controller"}
METHODS |= RIVALS


@pytest.fixture
def plan():
    return read_plan("configs/study/plan.yaml")


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
        assert {key for key in shared if key[0].startswith("aer")} == {
            (f"aer_tau_{chosen}", f"seed{s}") for s in plan.seeds[: plan.methods[f"aer_tau_{chosen}"].seeds]
        }
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
        if run.method == "on_policy":  # the number of steps is the method, and what it chooses is their size
            assert data["optimizer_steps_per_rollout"] == 1
            data["optimizer_steps_per_rollout"] = 3
        model = {k: v for k, v in config["model"]["init_args"].items() if k != "objective"}
        trainer = {k: v for k, v in config["trainer"].items() if k != "callbacks"}
        return [
            data,
            trainer,
            model if "_lr_" not in run.method and run.method != "on_policy" else None,
            run.rollouts,
            config["seed_everything"],
        ]

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
    assert stack("aer_tau_0.5")["EntropyAnchor"]["tau"] == 0.5 and stack("aer_gain_high")["EntropyAnchor"]["tau"] == 0.123
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


def test_one_method_alone_brings_what_it_depends_on():
    assert set(read_plan("configs/study/plan.yaml", only=["no_difficulty"]).methods) == {"no_difficulty", "aer"}


def test_candidates_are_listed_or_given_by_option(tmp_path):
    raw = yaml.safe_load(Path("configs/study/plan.yaml").read_text())
    raw["methods"]["aer"]["search"] = {"EntropyAnchor.tau": [0.5, 0.3, 0.7], "GlobalCoefficient.ki": [0.1, 0.2, 0.3]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(raw))
    candidates = read_plan(tmp_path / "plan.yaml").methods["aer"].candidates
    assert candidates[1] == {"EntropyAnchor.tau": 0.3, "GlobalCoefficient.ki": 0.2} and len(candidates) == 3


def test_a_plan_may_do_without_a_search_and_without_a_small_version(tmp_path):
    raw = yaml.safe_load(Path("configs/study/plan.yaml").read_text())
    raw.pop("search"), raw.pop("quick")
    for method in raw["methods"].values():
        method.pop("search", None)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(raw))
    assert read_plan(tmp_path / "plan.yaml").search_runs() == []
    with pytest.raises(ConfigError, match="--quick needs"):
        read_plan(tmp_path / "plan.yaml", quick=True)


def test_the_language_models_problems_are_there():
    """Its setting asks for no more distinct problems than a split has, and every run of it shares one budget."""
    plan = read_plan("configs/study/language_model.yaml")
    runs = plan.final_runs({})
    assert {run.method for run in runs} == {"grpo", "aer", "clip_cov", "dapo", "entropic"} and len(runs) == 15
    options = runs[0].config["data"]["init_args"]["evaluation"][0]["init_args"]
    source = ArithmeticPrompts(**options)
    assert [source[i].label for i in range(12)].count("one-digit sums") == 2 and len({source[i].text for i in range(48)}) == 48
    assert (
        len(
            {
                json.dumps([run.config["data"]["init_args"]["prompts_per_rollout"], run.config["model"]["init_args"]["optimizer"]])
                for run in runs
            }
        )
        == 1
    )


def test_the_plan_on_exploration_has_five_seeds_of_each_method():
    runs = read_plan("configs/study/exploration_plan.yaml").final_runs({})
    assert len(runs) == 25 and {run.config["seed_everything"] for run in runs} == {1, 2, 3, 4, 5}
    assert {run.config["data"]["init_args"]["prompts"]["init_args"].get("size") for run in runs} == {None}, "endless problems"
    (no_difficulty,) = [run for run in runs if (run.method, run.label) == ("no_difficulty", "seed1")]
    assert callback_names(no_difficulty.config) == ["EntropyAnchor", "GlobalCoefficient"]
    assert no_difficulty.config["trainer"]["callbacks"][0]["init_args"]["tau"] == 0.8
