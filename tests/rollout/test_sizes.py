import pytest

from aer_lightning.rollout.sizes import Sizes


def test_arithmetic():
    sizes = Sizes(prompts=16, responses=8, steps=2, micro_batch=16, world_size=2)
    assert sizes.problem() is None
    assert sizes.sequences == 128
    assert sizes.accumulate == 2
    assert sizes.micro_batches == 4
    assert "16 prompts per rollout x 8 responses per prompt = 128 sequences" in sizes.describe()
    assert "2 ranks" in sizes.describe()


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"prompts": 0}, "prompts_per_rollout"),
        ({"responses": 0}, "responses_per_prompt"),
        ({"steps": 0}, "optimizer_steps_per_rollout"),
        ({"micro_batch": 0}, "micro_batch_size"),
        ({"prompts": 15}, "prompts_per_rollout"),
        ({"prompts": 6, "world_size": 4}, "prompts_per_rollout"),
        ({"micro_batch": 24}, "micro_batch_size"),
    ],
)
def test_what_does_not_fit_names_its_option(change, option):
    values = {"prompts": 16, "responses": 8, "steps": 2, "micro_batch": 16, "world_size": 1} | change
    problem = Sizes(**values).problem()
    assert problem is not None and problem.startswith(f"data.init_args.{option}:")
