import torch

from aer_lightning.rollout import make_pack
from tests.rollout.test_rollout import sample


def test_values_are_aligned_with_their_tokens():
    pack = make_pack([sample([1, 2], [3, 4, 5]), sample([1], [6])], [4, 2])
    assert pack.input_ids.tolist() == [1, 2, 3, 4, 5, 1, 6] and pack.position_ids.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert pack.lengths == (5, 2) and len(pack) == 2
    assert pack.input_ids[pack.predicting + 1].tolist() == pack.targets.tolist() == [3, 4, 5, 6]
    assert pack.old_logprob.tolist() == [[2, 4, 6], [2, 0, 0]] and pack.reference_logprob is None
    assert pack.index.tolist() == [4, 2]
    assert [t.tolist() for t in pack.split(torch.arange(4))] == [[0, 1, 2], [3]]


def test_padding_keeps_the_gradient():
    pack = make_pack([sample([1, 2], [3, 4, 5]), sample([1], [6])])
    values = torch.arange(4.0, requires_grad=True)
    padded = pack.pad(values)
    assert padded.tolist() == [[0, 1, 2], [3, 0, 0]]
    (padded * torch.tensor([[1.0, 2, 3], [4, 5, 6]])).sum().backward()
    assert values.grad.tolist() == [1, 2, 3, 4]


def test_a_sample_that_is_not_scored_leaves_the_column_out():
    assert make_pack([sample([1], [2]), sample([1], [2], old_logprob=None)]).old_logprob is None


def test_a_pack_of_nothing_counts_nowhere():
    pack = make_pack([])
    assert len(pack.input_ids) == 2 and pack.targets.numel() == pack.mask.numel() == pack.index.numel() == 0
