import pytest

from aer_lightning.callbacks import DifficultyCoefficient, FixedCoefficient
from aer_lightning.errors import ConfigError


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("hinge", [1, 0.5, 0, 0]), ("gate", [1, 1, 0, 0]), ("linear", [1, 0.75, 0.5, 0]), ("uniform", [1, 1, 1, 1])],
)
def test_it_weights_what_the_coefficient_wrote(stack, make_batch, shape, expected):
    batch = make_batch(accuracy=(0.0, 0.25, 0.5, 1.0))
    stack.step([FixedCoefficient(0.2), DifficultyCoefficient(rho=0.5, shape=shape)], batch)
    assert batch.entropy_coefficient.tolist() == pytest.approx([0.2 * w for w in expected])


def test_a_group_without_a_right_answer_has_the_largest_weight(stack, make_batch):
    for shape in ("hinge", "gate", "linear", "uniform"):
        batch = stack.step([FixedCoefficient(1.0), DifficultyCoefficient(rho=0.3, shape=shape)], make_batch(accuracy=(0.0, 0.1, 0.9)))
        assert batch.entropy_coefficient[0] == batch.entropy_coefficient.max() == 1.0


def test_easy_prompts_are_not_counted_as_regularised(stack, make_batch):
    callbacks = [FixedCoefficient(0.2), DifficultyCoefficient(rho=0.5)]
    stack.step(callbacks, make_batch(accuracy=(0.1, 0.9), tokens=(3, 1)))
    assert stack.logged["aer/active_tokens"] == pytest.approx(0.75)


def test_it_keeps_no_state():
    assert DifficultyCoefficient().state_dict() == {}


def test_options_are_checked_when_built():
    with pytest.raises(ConfigError, match=r"^rho: "):
        DifficultyCoefficient(rho=0.0)
    with pytest.raises(ConfigError, match=r"^shape: "):
        DifficultyCoefficient(shape="step")
