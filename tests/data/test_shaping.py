import pytest
import torch

from aer_lightning.data.shaping import DynamicSampling, Shaping
from aer_lightning.errors import ConfigError
from aer_lightning.rollout import Sample


def group(accuracy, reward=0.0):
    return [
        Sample(
            prompt_id="p",
            label="",
            index=i,
            sequence=i,
            prompt_ids=[1],
            token_ids=[2],
            behaviour_logprob=torch.zeros(1),
            finish_reason="stop",
            group_accuracy=accuracy,
            reward=reward + i,
        )
        for i in range(2)
    ]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [False, True, True, True, False]),
        ({"tolerance": 0.1}, [False, False, True, False, False]),
        ({"keep_all_wrong": True}, [True, True, True, True, False]),
        ({"keep_all_wrong": True, "tolerance": 0.1}, [True, True, True, False, False]),
    ],
)
def test_which_groups_stay(options, kept):
    dynamic = DynamicSampling(**options)
    assert [dynamic.keeps(group(g)) for g in (0.0, 0.1, 0.5, 0.9, 1.0)] == kept


def test_a_shaped_reward_does_not_make_a_group_look_mixed():
    assert not DynamicSampling().keeps(group(0.0, reward=-0.5)) and not DynamicSampling().keeps(group(1.0, reward=-0.5))


@pytest.mark.parametrize(
    ("options", "name"), [({"max_tries": 0}, "max_tries"), ({"tolerance": 0.5}, "tolerance"), ({"tolerance": -0.1}, "tolerance")]
)
def test_options_out_of_range_are_named(options, name):
    with pytest.raises(ConfigError, match=name):
        DynamicSampling(**options)


def test_nothing_is_shaped_unless_asked_for():
    shaping = Shaping()
    assert shaping.advantage == "grpo" and shaping.overlong is None and shaping.dynamic is None and not shaping.mask_truncated
