"""Configuration files that contradict each other are refused with one line; those that add up are not."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from aer_lightning.errors import ConfigError
from aer_lightning.overlays import check_overlays, config_files, config_places, find_configs

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
METHODS = ["fixed_entropy", "skywork", "aent", "siren", "ablation/no_difficulty", "ablation/no_anchor", "ablation/no_controller"]
RIVALS = ["repo_r", "adapo", "stare", "entropic", "pos_adv"]


def command(*names):
    return ["fit", *[part for name in names for part in ("-c", str(CONFIGS / f"{name}.yaml"))]]


def refused(argv):
    with pytest.raises(ConfigError) as caught:
        check_overlays(argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("first", "second"), itertools.combinations([*METHODS, *RIVALS], 2))
def test_two_entropy_stacks_are_refused(first, second):
    message = refused(command("aer", first, second))
    assert message.startswith("trainer.callbacks: ") and f"{first}.yaml" in message and f"{second}.yaml" in message


@pytest.mark.parametrize(("first", "second"), itertools.combinations(["dapo", "clip_cov", "kl_cov"], 2))
def test_two_objectives_are_refused(first, second):
    message = refused(command("aer", first, second))
    assert message.startswith("model.init_args.objective: ") and f"{first}.yaml" in message and f"{second}.yaml" in message


@pytest.mark.parametrize("rival", RIVALS)
def test_a_rival_beside_another_objective_is_refused(rival):
    message = refused(command("aer", rival, "clip_cov"))
    assert message.startswith(("trainer.callbacks: ", "model.init_args.objective: ")) and f"{rival}.yaml" in message


def test_configurations_of_the_package_are_found_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find_configs(["fit", "-c", "configs/aer.yaml", "--config=strategy/ddp.yaml", "-c", "mine.yaml", "--name", "configs/aer.yaml"])
    assert Path(found[2]).is_file() and Path(found[3].partition("=")[2]).is_file()
    assert found[4:] == ["-c", "mine.yaml", "--name", "configs/aer.yaml"]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "aer.yaml").write_text("name: mine")
    assert find_configs(["-c", "configs/aer.yaml"]) == ["-c", "configs/aer.yaml"], "a file at hand goes first"


def test_a_base_after_its_overlay_is_refused():
    message = refused(command("grpo", "aer"))
    assert "aer.yaml first" in message and "grpo.yaml" in message


def test_what_adds_up_is_not_refused(tmp_path):
    check_overlays(command("aer"))
    for name in [*METHODS, *RIVALS, "dapo", "clip_cov", "kl_cov", "grpo", "on_policy"]:
        check_overlays(command("aer", name))
        check_overlays(command("aer", name, "strategy/fsdp2"))
    check_overlays(command("aer", "grpo", "grpo"))  # both say the same
    check_overlays(command("aer", "aer"))
    (tmp_path / "mine.yaml").write_text("name: mine\ntrainer:\n  max_epochs: 3\n")
    (tmp_path / "yours.yaml").write_text("name: yours\ntrainer:\n  max_epochs: 4\n")
    check_overlays([*command("aer", "grpo"), "-c", str(tmp_path / "mine.yaml"), f"--config={tmp_path / 'yours.yaml'}"])


def test_files_are_found_in_every_spelling():
    argv = ["fit", "-c", "a", "--config", "b", "--config=c", "-c=d", "--name", "e", "-c"]
    assert config_files(argv) == ["a", "b", "c", "d"]
    assert [argv[place] for place, _ in config_places(argv)] == ["a", "b", "--config=c", "-c=d"]


def test_what_is_no_mapping_is_named_and_what_is_missing_left_to_the_parser(tmp_path):
    check_overlays([*command("aer"), f"-c={tmp_path / 'missing.yaml'}"])
    for name, text in {"broken.yaml": "a: [1\n", "list.yaml": "- 1\n"}.items():
        (tmp_path / name).write_text(text)
        assert f"config: {tmp_path / name} " in refused([*command("aer"), f"-c={tmp_path / name}"])


def test_the_command_line_says_it_in_one_line(monkeypatch, capsys):
    from aer_lightning.__main__ import main

    monkeypatch.chdir(ROOT)
    assert main([*command("aer", "skywork", "aent"), "--print_config"]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: trainer.callbacks: ") and "Traceback" not in captured.out
