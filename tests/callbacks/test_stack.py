import pytest

from aer_lightning.callbacks import (
    ADAPOClip,
    AEntCoefficient,
    DifficultyCoefficient,
    EntropyAnchor,
    FixedCoefficient,
    GlobalCoefficient,
    PositiveAdvantageWeight,
    REPORScale,
    SkyworkCoefficient,
)
from aer_lightning.callbacks.stack import check_stack, read_batch
from aer_lightning.errors import ConfigError


@pytest.mark.parametrize(
    "stack",
    [
        [],
        [EntropyAnchor(), GlobalCoefficient(), DifficultyCoefficient()],
        [EntropyAnchor(), GlobalCoefficient()],
        [EntropyAnchor(), FixedCoefficient(0.1)],
        [FixedCoefficient(0.1), DifficultyCoefficient()],
        [SkyworkCoefficient()],
        [EntropyAnchor()],
        [EntropyAnchor(), REPORScale()],
        [EntropyAnchor(), FixedCoefficient(0.1), DifficultyCoefficient(), ADAPOClip()],
    ],
)
def test_sensible_stacks_pass(stack):
    check_stack(stack)


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        ([DifficultyCoefficient()], ["DifficultyCoefficient", "no"]),
        ([EntropyAnchor(), DifficultyCoefficient()], ["DifficultyCoefficient"]),
        ([GlobalCoefficient()], ["GlobalCoefficient", "EntropyAnchor"]),
        ([GlobalCoefficient(), EntropyAnchor()], ["order"]),
        ([EntropyAnchor(), DifficultyCoefficient(), GlobalCoefficient()], ["order"]),
        ([REPORScale()], ["REPORScale", "EntropyAnchor"]),
        ([REPORScale(), EntropyAnchor()], ["order"]),
        ([EntropyAnchor(), REPORScale(), FixedCoefficient()], ["order"]),
        ([EntropyAnchor(), REPORScale(), ADAPOClip()], ["REPORScale", "ADAPOClip", "keep one"]),
        ([EntropyAnchor(), PositiveAdvantageWeight(), PositiveAdvantageWeight()], ["keep one"]),
        ([EntropyAnchor(), GlobalCoefficient(), REPORScale()], ["GlobalCoefficient and REPORScale", "keep one"]),
        ([EntropyAnchor(), SkyworkCoefficient(), ADAPOClip()], ["SkyworkCoefficient and ADAPOClip", "keep one"]),
        ([EntropyAnchor(), AEntCoefficient(), ADAPOClip()], ["AEntCoefficient and ADAPOClip", "keep one"]),
        ([FixedCoefficient(), SkyworkCoefficient()], ["FixedCoefficient", "SkyworkCoefficient", "keep one"]),
    ],
)
def test_senseless_stacks_are_refused_in_one_line(stack, words):
    with pytest.raises(ConfigError) as caught:
        check_stack(stack)
    message = str(caught.value)
    assert message.startswith("trainer.callbacks:") and "\n" not in message
    assert all(word in message for word in words)


def test_another_kind_of_batch_is_named():
    with pytest.raises(TypeError, match="RolloutDataModule"):
        read_batch({"input_ids": 1})
