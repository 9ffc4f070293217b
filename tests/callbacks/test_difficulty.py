"""Difficulty weights as a callback: what reaches the batch, and that normalisation is over the whole rollout."""

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


@pytest.mark.parametrize("shape", ["hinge", "gate", "linear", "uniform"])
def test_normalised_weights_have_mean_one_over_the_tokens_of_the_rollout(stack, make_batch, shape):
    callbacks = [FixedCoefficient(0.2), DifficultyCoefficient(rho=0.5, shape=shape, normalize=True)]
    batch = stack.step(callbacks, make_batch(accuracy=(0.0, 0.25, 0.75, 1.0), tokens=(3, 4, 5, 6)))
    assert stack.logged["aer/mean_coefficient"] == pytest.approx(0.2) and stack.logged["aer/alpha"] == 0.2
    assert (batch.entropy_coefficient.diff() <= 0).all(), "the order of difficulty stays"


def test_normalisation_is_over_the_rollout_and_not_the_batch(stack, make_batch):
    """Two batches of one rollout, one of hard prompts and one of easy ones: mean weight .5, so hard ones get twice alpha in both."""
    callbacks = [FixedCoefficient(0.1), DifficultyCoefficient(shape="gate", normalize=True)]
    hard = make_batch(accuracy=(0.0, 0.0), tokens=(4, 4), last=False)
    easy = make_batch(accuracy=(1.0, 1.0), tokens=(4, 4), first=False)
    easy.info = hard.info
    hard.info.tokens_by_correct = [8.0, 0.0, 8.0]
    assert stack.step(callbacks, hard).entropy_coefficient.tolist() == pytest.approx([0.2, 0.2])
    assert stack.step(callbacks, easy).entropy_coefficient.tolist() == [0.0, 0.0]
    assert stack.logged["aer/mean_coefficient"] == pytest.approx(0.1)


def test_without_normalisation_the_mean_falls_with_the_hard_prompts(stack, make_batch):
    for normalize, expected in ((False, 0.025), (True, 0.1)):
        stack.step([FixedCoefficient(0.1), DifficultyCoefficient(normalize=normalize)], make_batch(accuracy=(0.0, 1.0), tokens=(2, 6)))
        assert stack.logged["aer/mean_coefficient"] == pytest.approx(expected)


def test_a_few_hard_prompts_do_not_get_everything(stack, make_batch):
    accuracy, tokens = (0.0, *[1.0] * 9), [4] * 10
    batch = stack.step([FixedCoefficient(1.0), DifficultyCoefficient(normalize=True)], make_batch(accuracy=accuracy, tokens=tokens))
    assert batch.entropy_coefficient.tolist() == pytest.approx([5.5, *[0.5] * 9])
    batch = stack.step(
        [FixedCoefficient(1.0), DifficultyCoefficient(normalize=True, max_scale=10)], make_batch(accuracy=accuracy, tokens=tokens)
    )
    assert batch.entropy_coefficient.tolist() == pytest.approx([10.0, *[0.0] * 9])


def test_it_keeps_no_state():
    assert DifficultyCoefficient().state_dict() == {}


def test_options_are_checked_when_built():
    with pytest.raises(ConfigError, match=r"^rho: "):
        DifficultyCoefficient(rho=0.0)
    with pytest.raises(ConfigError, match=r"^shape: "):
        DifficultyCoefficient(shape="step")
    with pytest.raises(ConfigError, match=r"^max_scale: "):
        DifficultyCoefficient(normalize=True, max_scale=0.5)
