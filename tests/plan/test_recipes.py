"""The recipes for real models: each fits its cards, its committed plan is the command's, and evaluation costs less than a rollout.

``python tests/plan/test_recipes.py`` writes the plans anew.
"""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "configs" / "paper"
MODELS = Path(__file__).parent / "models"
RECIPES = {"qwen3_4b": "qwen3_4b", "qwen3_8b": "qwen3_8b", "qwen3_4b_lora_1gpu": "qwen3_4b", "qwen3_1b7_1gpu": "qwen3_1b7"}
SOURCES = {"AIME24": 30, "AIME25": 30, "AMC23": 40, "MATH500": 500}


def arguments(name):
    """The recipe's own, with the model's config.json in the place of its hub name."""
    files = ["qwen3_4b"] if name == "qwen3_4b" else ["qwen3_4b", name]
    return [part for f in files for part in ("-c", str(PAPER / f"{f}.yaml"))] + [
        f"--model.init_args.pretrained={MODELS / RECIPES[name]}",
        f"--model.init_args.reference={MODELS / RECIPES[name]}",
    ]


def result(name):
    from aer_lightning.plan.command import parsed_fit, plan
    from aer_lightning.plan.facts import run_facts
    from aer_lightning.plan.hardware import accelerator

    return plan(run_facts(parsed_fit(arguments(name))), accelerator("h100-80gb"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_and_its_plan_is_committed(name, monkeypatch):
    from aer_lightning.plan.command import table

    monkeypatch.chdir(ROOT)
    found = result(name)
    assert found["fits"] and found["decoding_sequences"] >= 16
    assert found["world_size"] == (1 if name.endswith("1gpu") else 8)
    assert (PAPER / "plans" / f"{name}.txt").read_text() == table(found) + "\n"


@pytest.mark.parametrize("name", RECIPES)
def test_evaluation_costs_less_than_a_rollout(name, monkeypatch):
    from aer_lightning.plan.command import parsed_fit

    monkeypatch.chdir(ROOT)
    data = parsed_fit(arguments(name))["data"]["init_args"]
    problems = sum(SOURCES[source["class_path"].rsplit(".", 1)[-1]] for source in data["evaluation"])
    assert problems * data["eval_samples"] <= data["prompts_per_rollout"] * data["responses_per_prompt"]


if __name__ == "__main__":
    import os

    from aer_lightning.plan.command import table

    os.chdir(ROOT)
    for recipe in RECIPES:
        (PAPER / "plans" / f"{recipe}.txt").write_text(table(result(recipe)) + "\n")
    sys.exit(0)
