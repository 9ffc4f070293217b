"""What fit says before anything is loaded, and the dry run."""

from pathlib import Path

import pytest

from aer_lightning.plan.command import parsed_fit
from aer_lightning.plan.facts import RunFacts, model_facts, read_config
from aer_lightning.plan.hardware import Accelerator
from aer_lightning.plan.start import announce, fabricated_packs
from tests.integration.conftest import CommandLine, small

ROOT = Path(__file__).parents[2]
MODELS = Path(__file__).parent / "models"


def test_a_run_that_does_not_fit_is_warned_of(monkeypatch, recwarn):
    monkeypatch.chdir(ROOT)
    config = parsed_fit(["-c", "configs/aer.yaml", f"--model.init_args.pretrained={MODELS / 'qwen3_1b7'}"])
    assert announce(config, Accelerator("large", 500.0)).startswith("plan: fits")
    with pytest.warns(UserWarning, match="plan: does not fit"):
        announce(config, Accelerator("small", 24.0))


def test_made_up_rollouts_are_packed_for_every_rank():
    run = RunFacts(model_facts(read_config("countdown-tiny")), prompts=6, responses=4, tokens=64, max_prompt=24, max_new=8, devices=3)
    packs = fabricated_packs(run)
    assert len(packs) == 3 and len({len(rank) for rank in packs}) == 1


def test_a_dry_run_checks_everything_and_writes_nothing(capfd, monkeypatch, random_model, tmp_path):
    cli = CommandLine(capfd, monkeypatch)
    run = tmp_path / "run"
    status, out, err = cli.run("fit", "-c", "configs/aer.yaml", *small(random_model, run), "--dry_run=true")
    assert status == 0, err
    assert "prompts: countdown" in out and "packs on each" in out and "every check passed" in out
    assert not run.exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [("--data.init_args.prompts_per_rollout=7", "prompts_per_rollout"), ("--trainer.callbacks.rho=3", "rho")],
)
def test_a_dry_run_refuses_what_fit_refuses(capfd, monkeypatch, random_model, tmp_path, option, words):
    cli = CommandLine(capfd, monkeypatch)
    options = ["--data.init_args.optimizer_steps_per_rollout=2", "--dry_run=true"]
    message = cli.refused("fit", "-c", "configs/aer.yaml", *small(random_model, tmp_path / "run"), *options, option)
    assert words in message and not (tmp_path / "run").exists()
