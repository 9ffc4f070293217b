"""Class names on the command line: short ones, near misses, and classes without an annotation."""

import pytest
from jsonargparse import ArgumentParser, _typehints

from aer_lightning import cli_parts
from aer_lightning.algorithms.controllers import Controller
from aer_lightning.algorithms.objectives import Objective
from aer_lightning.data.engines.base import Engine
from aer_lightning.data.prompts.base import PromptSource
from aer_lightning.data.rewards.base import Grader


@pytest.fixture
def parse():
    cli_parts.install()

    def run(kind, value):
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--part", type=kind)
        return parser.instantiate(parser.parse_args([f"--part={value}"])).part

    return run


def test_the_functions_of_jsonargparse_that_are_replaced_are_there():
    for name in ("implements_protocol", "resolve_class_path_by_name", "get_all_subclass_paths"):
        assert callable(getattr(_typehints, name))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Engine, "VLLMEngine"),
        (PromptSource, "CountdownPrompts"),
        (PromptSource | None, "GSM8K"),
        (Objective | None, "ClipCovObjective"),
        (Controller, "PIController"),
        (Grader, "MathGrader"),
    ],
)
def test_short_names(parse, kind, name):
    assert type(parse(kind, name)).__name__ == name


@pytest.mark.parametrize(
    ("kind", "name", "suggested"),
    [
        (Engine, "VLMEngine", "VLLMEngine"),
        (PromptSource, "JsonPrompts", "JsonlPrompts"),
        (Objective, "ClipObjectve", "ClipObjective"),
        (Engine, "Xyz", "TransformersEngine, VLLMEngine"),
    ],
)
def test_near_misses(parse, kind, name, suggested):
    with pytest.raises(Exception, match=f"no class {name}; .*{suggested}"):
        parse(kind, name)


def test_users_classes_and_functions_need_no_annotation(parse):
    assert type(parse(Engine, "examples.engine.CountingEngine")).__name__ == "CountingEngine"
    assert type(parse(PromptSource, "examples.prompts.Sums")).__name__ == "Sums"
    assert type(parse(Objective | None, "examples.objective.Reinforce")).__name__ == "Reinforce"
    assert parse(cli_parts.Weight, "examples.weight.middle")(0.5) == 1.0


def test_what_is_no_class_is_refused(parse):
    for value in ("examples.weight", "3", "[1]"):
        with pytest.raises(Exception, match="part"):
            parse(Engine, value)


def test_null_inside_a_list_item(capsys):
    from aer_lightning.cli import build

    options = ["validate", "-c", "configs/eval.yaml", "--data.init_args.evaluation.init_args.limit=7"]
    for value, shown in (("7", "limit: 7"), ("null", "limit: null")):
        with pytest.raises(SystemExit):
            build([*options, "--data.init_args.evaluation.init_args.limit", value, "--print_config"], run=False)
        assert shown in capsys.readouterr().out
