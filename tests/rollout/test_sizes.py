import pytest

from aer_lightning.rollout import Sizes


def test_arithmetic():
    sizes = Sizes(prompts=16, responses=8, steps=2, tokens=4096, world_size=2)
    assert sizes.problem() is None
    assert sizes.sequences == 128
    assert "16 prompts per rollout x 8 responses per prompt = 128 sequences" in sizes.describe()
    assert "2 ranks" in sizes.describe() and "4096 tokens" in sizes.describe()


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"prompts": 0}, "prompts_per_rollout"),
        ({"responses": 0}, "responses_per_prompt"),
        ({"steps": 0}, "optimizer_steps_per_rollout"),
        ({"tokens": 0}, "tokens_per_micro_batch"),
        ({"prompts": 15}, "prompts_per_rollout"),
        ({"prompts": 2, "world_size": 9}, "prompts_per_rollout"),
    ],
)
def test_what_does_not_fit_names_its_option(change, option):
    values = {"prompts": 16, "responses": 8, "steps": 2, "tokens": 4096, "world_size": 1} | change
    problem = Sizes(**values).problem()
    assert problem is not None and problem.startswith(f"data.init_args.{option}:")


def test_prompts_need_not_divide_by_ranks():
    assert Sizes(prompts=6, responses=8, steps=2, tokens=4096, world_size=4).problem() is None
