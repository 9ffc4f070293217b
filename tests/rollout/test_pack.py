import random

import pytest
import torch

from aer_lightning.rollout import make_pack
from tests.rollout.test_rollout import sample


def test_values_are_aligned_with_their_tokens():
    pack = make_pack([sample([1, 2], [3, 4, 5]), sample([1], [6])], [4, 2])
    assert pack.input_ids.tolist() == [1, 2, 3, 4] and pack.position_ids.tolist() == [0, 1, 2, 3], (
        "1 is shared, last tokens predict nothing"
    )
    assert pack.lengths == (4, 1) and len(pack) == 2
    assert pack.input_ids[pack.places[pack.predicting]].tolist() == [2, 3, 4, 1] and pack.targets.tolist() == [3, 4, 5, 6]
    assert pack.old_logprob.tolist() == [[2, 4, 6], [2, 0, 0]] and pack.reference_logprob is None
    assert pack.index.tolist() == [4, 2]
    assert [t.tolist() for t in pack.split(torch.arange(4))] == [[0, 1, 2], [3]]


@pytest.mark.parametrize("seed", range(20))
def test_a_row_holds_every_prefix_once(seed):
    draw = random.Random(seed)
    prompts = [[draw.randrange(3) for _ in range(draw.randint(1, 4))] for _ in range(3)]
    samples = [sample(draw.choice(prompts), [draw.randrange(2) for _ in range(draw.randint(0, 5))]) for _ in range(12)]
    pack = make_pack(samples, range(12))
    whole = [(samples[i].prompt_ids + samples[i].token_ids) for i in pack.index.tolist()]
    computed = [ids[: max(1, len(ids) - 1)] for ids in whole]
    assert pack.input_ids[pack.places].tolist() == [t for ids in computed for t in ids]
    assert pack.position_ids[pack.places].tolist() == [p for ids in computed for p in range(len(ids))]
    assert pack.places[pack.first].tolist() == list(range(len(pack.input_ids)))
    prefixes = {tuple(ids[: n + 1]) for ids in computed for n in range(len(ids))}
    assert len(pack.input_ids) == len(prefixes)
    predicted = iter(zip(pack.predicting.tolist(), pack.targets.tolist(), strict=True))
    start = 0
    for i, ids in zip(pack.index.tolist(), computed, strict=True):
        for j, token in enumerate(samples[i].token_ids):
            assert next(predicted) == (start + len(samples[i].prompt_ids) + j - 1, token)
        start += len(ids)


def test_padding_keeps_the_gradient():
    pack = make_pack([sample([1, 2], [3, 4, 5]), sample([1, 3], [6])])
    values = torch.arange(4.0, requires_grad=True)
    padded = pack.pad(values)
    assert padded.tolist() == [[0, 1, 2], [3, 0, 0]]
    (padded * torch.tensor([[1.0, 2, 3], [4, 5, 6]])).sum().backward()
    assert values.grad.tolist() == [1, 2, 3, 4]


def test_a_sample_that_is_not_scored_leaves_the_column_out():
    assert make_pack([sample([1], [2]), sample([1], [2], old_logprob=None)]).old_logprob is None


def test_a_pack_of_nothing_counts_nowhere():
    pack = make_pack([])
    assert (
        len(pack.input_ids) == len(pack.places) == len(pack.first) == 2
        and pack.targets.numel() == pack.mask.numel() == pack.index.numel() == 0
    )
