import subprocess

import pytest

from aer_lightning import completion
from aer_lightning.cli import help_roots
from aer_lightning.cli_help import find_help
from aer_lightning.errors import ConfigError


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--data.init_args.engine.help", ["VLLMEngine", "TransformersEngine", "--data.init_args.engine.help=NAME"]),
        ("--data.init_args.engine.help=VLLMEngine", ["max_num_seqs (int; default 256)", "key-value cache"]),
        ("--data.init_args.evaluation.help", ["CountdownPrompts", "GSM8K"]),
        ("--data.init_args.prompts.help=JsonlPrompts", ["path (str | Path; required)", "limit (int | None; default None)"]),
        ("--data.init_args.prompts.JsonlPrompts.grader.help", ["MathGrader"]),
        ("--model.init_args.objective.help=ClipObjective", ["clip_high"]),
        ("--trainer.callbacks.help", ["EntropyAnchor", "SkyworkCoefficient"]),
        ("--trainer.callbacks.GlobalCoefficient.controller.help", ["PIController"]),
        ("--trainer.logger.help=WandbLogger", ["project"]),
        ("--model.help", ["PolicyModule", "pretrained (str; default 'countdown-tiny')"]),
        ("--samples.help", ["every (int; default 10)"]),
    ],
)
def test_help_of_an_option(argument, words):
    text = find_help(["fit", "-c", "configs/aer.yaml", argument], help_roots())
    assert text is not None and all(word in text for word in words), text


def test_the_class_may_stand_apart():
    text = find_help(["fit", "--data.init_args.engine.help", "TransformersEngine"], help_roots())
    assert text.startswith("aer_lightning.data.engines.transformers.TransformersEngine")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--data.init_args.engin.help", "has no option engin; it has prompts"),
        ("--data.init_args.temperature.help", "takes no class"),
        ("--dat.help", "dat: no such option; there are trainer"),
        ("--data.init_args.engine.help=Nothing", "no class Nothing; there are .*TransformersEngine"),
    ],
)
def test_what_there_is_not(argument, words):
    with pytest.raises(ConfigError, match=words):
        find_help(["fit", argument], help_roots())


def test_other_command_lines_ask_for_none():
    assert find_help(["fit", "-c", "x.yaml", "--help", "--data.init_args.engine=VLLMEngine"], help_roots()) is None


def test_completion_is_a_script_that_the_shell_reads(capsys):
    assert completion.main(["bash"]) == 0
    script = capsys.readouterr().out
    for word in ("compare", "--data.init_args.prompts_per_rollout", "--trainer.max_epochs", "--model.init_args.pretrained"):
        assert word in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
