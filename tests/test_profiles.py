"""Sizes for a kind of machine: which file --profile lays over a configuration, and that what it says fits a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aer_lightning.__main__ import main
from aer_lightning.errors import ConfigError
from aer_lightning.profiles import lay_profile, profiles_of

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
MODELS = Path(__file__).parent / "plan" / "models"
WITH_PROFILES = {"gsm8k": "qwen3_0b6", "arithmetic": "smollm2_135m"}


def command(*names):
    return ["fit", *[part for name in names for part in ("-c", str(CONFIGS / f"{name}.yaml"))]]


def test_every_profile_belongs_to_a_configuration_beside_its_folder():
    files = list(CONFIGS.glob("profile/*/*.yaml"))
    assert {path.stem for path in files} == set(WITH_PROFILES)
    assert all((CONFIGS / path.name).is_file() for path in files)
    assert profiles_of(CONFIGS / "gsm8k.yaml") == ["cpu", "gpu"] and profiles_of(CONFIGS / "aer.yaml") == ["cpu"]


@pytest.mark.parametrize("given", [["--profile", "gpu"], ["--profile=gpu"]])
def test_the_file_of_a_profile_comes_after_its_configuration_and_before_overlays(given):
    argv = lay_profile([*command("gsm8k", "grpo"), *given, "--name", "x"])
    added = str(CONFIGS / "profile/gpu/gsm8k.yaml")
    assert argv == [*command("gsm8k"), "-c", added, *command("grpo")[1:], "--name", "x"]
    joined = lay_profile(["fit", f"--config={CONFIGS / 'gsm8k.yaml'}", *given])
    assert joined[-2:] == ["-c", added]


def test_auto_is_the_gpu_where_there_is_one(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert ("profile/gpu" in str(lay_profile(command("gsm8k")))) is there
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for cpu in (["--profile", "cpu"], ["--trainer.accelerator", "cpu"], ["--trainer.accelerator=cpu"]):
        assert "profile/gpu" not in str(lay_profile([*command("gsm8k"), *cpu]))
    assert lay_profile(command("aer")) == command("aer"), "nothing to choose from"
    assert "profile/gpu" in str(lay_profile(command("gsm8k"), present="gpu")), "a plan is for a GPU that is elsewhere"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([*command("gsm8k"), "--profile", "tpu"], "gsm8k.yaml has no profile 'tpu'; use one of auto, cpu, gpu"),
        ([*command("aer"), "--profile", "gpu"], "aer.yaml has no profile 'gpu'; use one of auto, cpu"),
        ([*command("gsm8k"), "--profile"], "wants a name"),
        (["fit", "--profile", "gpu"], "give one, -c"),
    ],
)
def test_an_unknown_profile_is_one_line_with_those_there_are(argv, said):
    with pytest.raises(ConfigError) as caught:
        lay_profile(argv)
    assert said in str(caught.value) and str(caught.value).startswith("profile: ") and "\n" not in str(caught.value)


def test_the_command_line_says_it_too(capsys):
    assert main([*command("gsm8k"), "--profile", "tpu"]) == 2
    assert capsys.readouterr().err == "error: profile: gsm8k.yaml has no profile 'tpu'; use one of auto, cpu, gpu\n"


@pytest.mark.parametrize("name", WITH_PROFILES)
def test_the_gpu_profile_is_a_run_that_fits_a_card_and_uses_it(name, monkeypatch):
    from aer_lightning.cli import parse
    from aer_lightning.plan.command import parsed_fit, plan
    from aer_lightning.plan.facts import run_facts
    from aer_lightning.plan.hardware import accelerator

    monkeypatch.chdir(ROOT)
    options = ["-c", f"configs/{name}.yaml", f"--model.init_args.pretrained={MODELS / WITH_PROFILES[name]}"]
    config = parsed_fit(options)
    found = plan(run_facts(config), accelerator("h100-80gb"))
    assert found["fits"] and found["decoding_sequences"] >= 64
    assert config["trainer"]["precision"] == "bf16-mixed"
    data, small = config["data"]["init_args"], parse(["fit", *options, "--profile", "cpu"])["data"]["init_args"]
    assert data["prompts_per_rollout"] * data["responses_per_prompt"] >= 1024 > small["prompts_per_rollout"] * small["responses_per_prompt"]
    held_out = data["evaluation"][0]["init_args"]
    assert held_out.get("limit") is None, "what the smaller file leaves out is in again"
    assert small["evaluation"][0]["class_path"] == data["evaluation"][0]["class_path"]
