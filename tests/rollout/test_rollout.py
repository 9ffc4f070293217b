import io

import pytest
import torch

from aer_lightning.rollout import Rollout, RolloutInfo, Sample


def sample(prompt, tokens, i=0, **kwargs):
    n = len(tokens)
    values = {
        "behaviour_logprob": torch.arange(1.0, n + 1),
        "old_logprob": torch.arange(1.0, n + 1) * 2,
        "entropy": torch.ones(n),
        "finish_reason": "stop",
    }
    return Sample(prompt_id=f"p{i}", label="", index=0, sequence=i, prompt_ids=prompt, token_ids=tokens, **(values | kwargs))


def make_rollout(**kwargs):
    samples = [
        sample([1, 2], [3, 4, 5], 0),
        sample([1], [6], 1, finish_reason="length"),
        sample([1, 2, 3], [7, 8], 2),
        sample([9], [9, 9], 3),
    ]
    values = {
        "info": RolloutInfo(4, 7, 1.0, 0.5, 8, 4, {"reward": 0.25}),
        "steps": [samples[:2], samples[2:]],
        "packs": [[[0, 1]], [[0], [1]]],
        "step_tokens": [4.0, 4.0],
        "step_loss_tokens": [4.0, 4.0],
        "step_sequences": [2.0, 2.0],
        "max_tokens": 3,
    }
    return Rollout(**(values | kwargs))


def test_optimizer_steps_come_in_order():
    rollout = make_rollout(step_tokens=[40.0, 50.0])
    batches = []
    while not rollout.finished:
        batches.append(rollout.next_batch())
    assert len(batches) == len(rollout) == 2
    assert [b.first for b in batches] == [True, False] and [b.last for b in batches] == [False, True]
    assert [b.num_tokens for b in batches] == [40.0, 50.0]
    assert [b.prompt_ids for b in batches] == [["p0", "p1"], ["p2", "p3"]]
    assert [b.sequence_index.tolist() for b in batches] == [[0, 1], [2, 3]]
    assert [b.response_lengths.tolist() for b in batches] == [[3, 1], [2, 2]]
    assert [len(list(b.tensors())) for b in batches] == [1, 2]
    assert all((b.entropy_coefficient == 0).all() and b.scored for b in batches)


def test_truncated_completions_leave_the_loss_but_not_the_entropy_unless_asked():
    (pack,) = make_rollout(mask_truncated=True).next_batch().tensors()
    assert pack.mask.sum(1).tolist() == pack.entropy_mask.sum(1).tolist() == [3, 1] and pack.loss_mask.sum(1).tolist() == [3, 0]
    (pack,) = make_rollout(mask_truncated_entropy=True).next_batch().tensors()
    assert pack.mask.sum(1).tolist() == pack.loss_mask.sum(1).tolist() == [3, 1] and pack.entropy_mask.sum(1).tolist() == [3, 0]


def test_state_survives_a_checkpoint_of_plain_values():
    rollout = make_rollout()
    rollout.next_batch()
    buffer = io.BytesIO()
    torch.save(rollout.state_dict(), buffer)
    buffer.seek(0)
    restored = Rollout.from_state_dict(torch.load(buffer, weights_only=True))
    assert restored.position == 1 and restored.info == rollout.info
    a, b = rollout.next_batch(), restored.next_batch()
    for x, y in zip(a.tensors(), b.tensors(), strict=True):
        assert torch.equal(x.input_ids, y.input_ids) and torch.equal(x.old_logprob, y.old_logprob)
    assert a.prompt_ids == b.prompt_ids and a.last == b.last


@pytest.mark.parametrize("world", [1, 3])
def test_a_rollout_in_flight_is_dealt_to_another_number_of_ranks(world):
    whole = make_rollout()
    whole.next_batch()
    shares = []
    for r in range(2):
        part = make_rollout(steps=[[s for s in step if s.sequence % 2 == r] for step in whole.steps], packs=[[[0]], [[0]]])
        part.next_batch()
        shares.append(part.state_dict())
    parts = [Rollout.from_shares(shares, rank, world, tokens=16) for rank in range(world)]
    assert all(part.position == 1 and len(part) == 2 for part in parts)
    assert len({len(part.packs[1]) for part in parts}) == 1
    assert sorted(s.sequence for part in parts for s in part.steps[1]) == [2, 3]
    for part in parts:
        assert sorted(i for pack in part.packs[1] for i in pack) == list(range(len(part.steps[1])))


def test_moving_a_batch_moves_tensors_alone():
    moved = make_rollout().next_batch().to("meta")
    assert moved.advantage.device.type == "meta"
    assert moved.prompt_ids == ["p0", "p1"] and moved.num_tokens == 4.0


@pytest.mark.parametrize("name", ["correct", "wrong", "timeout"])
def test_only_the_outcome_correct_is_correct(name):
    assert sample([1], [2], outcome=name).correct == (name == "correct")
