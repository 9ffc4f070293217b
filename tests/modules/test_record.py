from types import SimpleNamespace

import pytest
import torch

from aer_lightning.errors import NonFiniteLossError
from aer_lightning.modules.record import StepRecord
from aer_lightning.rollout import RolloutInfo

CPU = torch.device("cpu")


def batch(last=True, index=3):
    info = RolloutInfo(index, 0, 1.0, 0.5, 8, 4, {"reward": 0.25})
    samples = [SimpleNamespace(prompt_id=f"p{i}") for i in range(3)]
    return SimpleNamespace(packs=[[0, 1], [2]], samples=samples, info=info, last=last)


def pair(total, count):
    return torch.tensor(float(total)), torch.tensor(float(count))


def test_means_are_of_sums_over_all_steps_of_a_rollout():
    record = StepRecord()
    record.add(batch(last=False), {"loss": pair(6, 2), "regularised_entropy": pair(1, 4)}, [torch.tensor(1.0), torch.tensor(2.0)])
    record.add_gradient_norm(2.0, 1)
    assert record.finished is None
    record.add(batch(), {"loss": pair(3, 1)}, [torch.tensor(1.0), torch.tensor(2.0)])
    record.add_gradient_norm(4.0, 1)
    values = record.values(record.finished, 1)
    assert values == {
        "train/loss": 3.0,
        "train/grad_norm": 3.0,
        "rollout/reward": 0.25,
        "rollout/regularised_entropy": 0.25,
        "rollout/index": 3.0,
        "rollout/entropy": 0.5,
    }
    assert record.metrics == {}


def test_the_rest_of_a_rollout_goes_on_from_a_checkpoint_of_as_many_ranks():
    record, again, other = StepRecord(), StepRecord(), StepRecord()
    record.add(batch(last=False), {"loss": pair(6, 2)}, [torch.tensor(1.0)] * 2)
    again.load(record.state(), 0, 1)
    other.load(record.state(), 0, 2)
    assert again.metrics == record.metrics and other.metrics == {}


@pytest.mark.parametrize(
    ("losses", "fine", "words"), [([1.0, float("nan")], True, "rollout 3, prompts p2"), ([1.0, 2.0], False, "no single")]
)
def test_what_is_not_finite_stops_the_run_with_its_place(losses, fine, words):
    record = StepRecord()
    record.add(batch(), {}, [torch.tensor(1.0), torch.tensor(2.0)])
    record.check(True, CPU)
    record.add(batch(), {}, [torch.tensor(value) for value in losses])
    with pytest.raises(NonFiniteLossError, match=words):
        record.check(fine, CPU)
