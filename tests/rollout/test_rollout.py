import io

import pytest
import torch

from aer_lightning.rollout.rollout import Rollout, RolloutInfo, Sample, collate


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
        "step_tokens": [4.0, 4.0],
        "step_loss_tokens": [4.0, 4.0],
        "step_sequences": [2.0, 2.0],
        "micro_batch_size": 1,
        "pad_id": 0,
        "max_tokens": 3,
    }
    return Rollout(**(values | kwargs))


def test_collate_aligns_values_with_their_tokens():
    out = collate([sample([1, 2], [3, 4, 5]), sample([1], [6])], pad_id=0)
    assert out["input_ids"].tolist() == [[1, 2, 3, 4, 5], [1, 6, 0, 0, 0]]
    assert out["attention_mask"].sum(1).tolist() == [5, 2]
    assert out["input_ids"][out["response_mask"]].tolist() == [3, 4, 5, 6]
    assert out["old_logprob"].tolist() == [[0, 0, 2, 4, 6], [0, 2, 0, 0, 0]]
    assert "reference_logprob" not in out


def test_micro_batches_come_in_order_and_know_their_step():
    rollout = make_rollout(step_tokens=[40.0, 50.0])
    batches = []
    while not rollout.finished:
        batches.append(rollout.next_batch())
    assert len(batches) == len(rollout) == 4
    assert [b.first for b in batches] == [True, False, False, False]
    assert [b.last for b in batches] == [False, False, False, True]
    assert [b.num_tokens for b in batches] == [40.0, 40.0, 50.0, 50.0]
    assert [b.prompt_ids for b in batches] == [["p0"], ["p1"], ["p2"], ["p3"]]
    assert [b.sequence_index.item() for b in batches] == [0, 1, 2, 3]
    assert all((b.entropy_coefficient == 0).all() for b in batches)


def test_truncated_completions_leave_the_loss_but_not_the_entropy():
    rollout = make_rollout(mask_truncated=True, micro_batch_size=2)
    batch = rollout.next_batch()
    assert batch.response_mask.sum(1).tolist() == [3, 1]
    assert batch.loss_mask.sum(1).tolist() == [3, 0]


def test_state_survives_a_checkpoint_of_plain_values():
    rollout = make_rollout()
    rollout.next_batch()
    buffer = io.BytesIO()
    torch.save(rollout.state_dict(), buffer)
    buffer.seek(0)
    restored = Rollout.from_state_dict(torch.load(buffer, weights_only=True))
    assert restored.position == 1 and restored.info == rollout.info
    a, b = rollout.next_batch(), restored.next_batch()
    assert torch.equal(a.input_ids, b.input_ids) and torch.equal(a.old_logprob, b.old_logprob)
    assert a.prompt_ids == b.prompt_ids and a.last == b.last


def test_moving_a_batch_moves_tensors_alone():
    moved = make_rollout().next_batch().to("meta")
    assert moved.input_ids.device.type == moved.advantage.device.type == "meta"
    assert moved.prompt_ids == ["p0"] and moved.num_tokens == 4.0


@pytest.mark.parametrize("name", ["correct", "wrong", "timeout"])
def test_only_the_outcome_correct_is_correct(name):
    assert sample([1], [2], outcome=name).correct == (name == "correct")
