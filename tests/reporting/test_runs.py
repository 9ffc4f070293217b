import pytest

from aer_lightning.errors import ConfigError, DataError
from aer_lightning.reporting.runs import group_runs, read_run


def read(*folders):
    return [read_run(str(folder)) for folder in folders]


def test_runs_are_grouped_by_name(make_run):
    folders = [
        make_run("a1"),
        make_run("g1", {"name": "grpo", "trainer.callbacks": []}),
        make_run("a2", {"seed_everything": 2, "data.init_args.prompts.init_args.seed": 5}),
    ]
    methods = group_runs(read(*folders))
    assert [(m.name, [r.seed for r in m.runs]) for m in methods] == [("aer", [1, 2]), ("grpo", [1])]


def test_name_from_the_command_line_wins(make_run):
    folder = make_run("a=b")
    assert read_run(f"mine={folder}").name == "mine"
    assert read_run(str(folder)).name == "aer", "a folder with an equals sign is still a folder"
    assert read_run(str(make_run("plain", {"name": None}))).name == "plain"


def test_the_seed_of_the_data_wins(make_run):
    assert read_run(str(make_run("x", {"data.init_args.seed": 7}))).seed == 7


def test_folder_without_metrics_is_refused(make_run, tmp_path):
    make_run("group/one")
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        read_run(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"group: no metrics\.csv.*group/\*"):
        read_run(str(tmp_path / "group"))
    make_run("deep/aer/one")
    with pytest.raises(DataError, match=r"deep/\*/\*"):
        read_run(str(tmp_path / "deep"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no metrics\.csv"):
        read_run(str(tmp_path / "empty"))


def test_folder_without_rollouts_or_config_is_refused(make_run):
    folder = make_run("x")
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(DataError, match=r"config\.yaml: not YAML"):
        read_run(str(folder))
    (folder / "config.yaml").unlink()
    with pytest.raises(DataError, match=r"no config\.yaml"):
        read_run(str(folder))
    with pytest.raises(DataError, match="holds no rollout"):
        read_run(str(make_run("y", rollouts=0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.init_args.max_new_tokens": 64}, r"b: another task than .*a: data\.init_args\.max_new_tokens is 64, not 26"),
        (
            {"data.init_args.prompts.init_args.numbers": [4]},
            r"task .*data\.init_args\.prompts\.init_args\.numbers.* is \[4\], not \[2, 3\]",
        ),
        ({"data.init_args.evaluation": []}, r"another task .*data\.init_args\.evaluation"),
        ({"model.init_args.pretrained": "other"}, r"another task .*model\.init_args\.pretrained is other, not countdown-tiny"),
        ({"data.init_args.eval_temperature": 0.5}, r"another task .*eval_temperature is 0\.5, not 1\.0"),
        ({"data.init_args.prompts_per_rollout": 8}, r"another budget .*prompts_per_rollout is 8, not 4"),
        ({"data.init_args.optimizer_steps_per_rollout": 2}, r"another budget .*optimizer_steps_per_rollout is 2, not 1"),
    ],
)
def test_other_task_or_budget_is_refused(make_run, changes, message):
    with pytest.raises(ConfigError, match=message):
        group_runs(read(make_run("a"), make_run("b", {"name": "other", **changes})))


def test_other_length_is_refused(make_run):
    with pytest.raises(ConfigError, match=r"b: another budget .*15 rollouts, not 10; finish .*a "):
        group_runs(read(make_run("a"), make_run("b", {"seed_everything": 2}, rollouts=15)))


@pytest.mark.parametrize(
    "changes",
    [
        {"data.init_args.eval_temperature": 1.0},
        {"data.init_args.evaluation": [{"class_path": "CountdownPrompts", "init_args": {"split": "validation", "size": 4, "seed": 0}}]},
        {"model.init_args.optimizer.init_args.lr": 1e-4},
        {"trainer.devices": 2},
    ],
)
def test_what_is_method_or_machinery_may_differ(make_run, changes):
    assert len(group_runs(read(make_run("a"), make_run("b", {"name": "other", **changes})))) == 2


def test_one_name_for_two_methods_is_refused(make_run):
    changed = {"seed_everything": 2, "model.init_args.optimizer.init_args.lr": 1e-4}
    with pytest.raises(ConfigError, match=r"b: has the name 'aer' .*model\.init_args\.optimizer\.init_args\.lr; name it .*OTHER="):
        group_runs(read(make_run("a"), make_run("b", changed)))


def test_machines_of_seeds_may_differ_but_a_seed_counts_once(make_run):
    a, b = make_run("a"), make_run("b", {"seed_everything": 2, "trainer.devices": 2})
    assert group_runs(read(a, b))[0].seeds == 2
    with pytest.raises(ConfigError, match="the same name 'aer' and seed 1"):
        group_runs(read(a, make_run("c")))
