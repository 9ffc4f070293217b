import pytest
import torch

from aer_lightning.data.figures import group_figures, outcome_rates, part_means, tokens_by_correct
from aer_lightning.rollout import Sample


def sample(outcome, tokens=2, accuracy=0.5, entropy=1.0, finish="stop"):
    return Sample(
        "p", "", 0, 0, [1], list(range(tokens)), torch.zeros(tokens), finish, outcome=outcome, reward=float(outcome == "correct"),
        group_accuracy=accuracy, entropy=torch.full((tokens,), entropy),
    )  # fmt: skip


GROUPS = [
    [sample("correct"), sample("wrong", tokens=6, entropy=2.0)],
    [sample("unparsed", accuracy=0.0), sample("timeout", accuracy=0.0, finish="length")],
]


def test_figures_are_means_over_completions_and_groups():
    figures = group_figures(GROUPS, "cpu")
    assert figures == {"reward": 0.25, "response_length": 3.0, "truncated": 0.25, "mixed_groups": 0.5, "all_wrong_groups": 0.5}


def test_each_outcome_has_a_rate():
    rates = outcome_rates([s for g in GROUPS for s in g], "cpu")
    assert rates == {"correct": 0.25, "wrong": 0.25, "unparsed": 0.25, "timeout": 0.25, "error": 0.0, "bad_gold": 0.0}


def test_each_reward_has_a_mean():
    samples = [s for g in GROUPS for s in g]
    samples[0].parts = {"format": 1.0, "length": 0.5}
    samples[1].parts = {"format": 1.0, "length": -0.1}
    assert part_means(samples, ("format", "length"), "cpu") == pytest.approx({"reward/format": 0.5, "reward/length": 0.1})
    assert part_means(samples, (), "cpu") == {}


def test_tokens_are_counted_by_how_many_of_the_group_are_right():
    assert tokens_by_correct([s for g in GROUPS for s in g], 2, "cpu") == [4.0, 8.0, 0.0]
