"""Sharded training itself is tested by tests/integration/test_distributed.py, on two processes."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from aer_lightning.errors import ConfigError
from aer_lightning.modules.loading import load_causal_lm
from aer_lightning.modules.network import PolicyNetwork
from aer_lightning.modules.sharding import check_strategy, decoder_layers, full_state


def network(folder):
    return PolicyNetwork(load_causal_lm(str(folder), dtype="float32", trust_remote_code=False, attn_implementation=None))


def test_units_of_sharding_are_the_decoder_layers(random_model, random_llama):
    for folder in (random_model, random_llama):
        model = network(folder).model
        assert decoder_layers(model) == list(model.model.layers)


def test_full_state_has_the_names_and_values_of_the_model(random_model):
    net = network(random_model)
    state = dict(full_state(net))
    assert state.keys() == net.model.state_dict().keys()
    assert all(torch.equal(state[k], v) and not state[k].requires_grad for k, v in net.model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "bf16-true"}, ["trainer.precision", "bf16-mixed"]),
        ({"precision": "16-true"}, ["trainer.precision", "16-mixed"]),
        ({"strategy": ModelParallelStrategy(tensor_parallel_size=2)}, ["tensor_parallel_size", "different models"]),
        ({"strategy": FSDPStrategy.__new__(FSDPStrategy)}, ["trainer.strategy", "configs/strategy/fsdp.yaml"]),
    ],
)
def test_what_would_train_something_else_is_refused_in_one_line(options, words):
    trainer = SimpleNamespace(**({"precision": "32-true", "strategy": None} | options))
    with pytest.raises(ConfigError) as caught:
        check_strategy(trainer)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_weights_are_read_under_inference_mode(random_model):
    net = network(random_model)
    with torch.inference_mode():
        assert not any(t.is_inference() for _, t in full_state(net))


def test_full_tensors_of_a_sharded_network_on_one_rank(random_model, tmp_path):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor

    from aer_lightning.modules.sharding import shard_fsdp2

    plain = network(random_model)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        net = network(random_model)
        shard_fsdp2(net, init_device_mesh("cpu", (1,)))
        assert all(isinstance(p, DTensor) for p in net.parameters())
        expected = plain.model.state_dict()
        with torch.inference_mode():
            state = dict(full_state(net))
        assert all(not isinstance(t, DTensor) and torch.equal(t, expected[n]) for n, t in state.items()) and len(state) == len(expected)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(("replicas", "words"), [(0, "at least 1"), (3, "4 processes .* 3 copies")])
def test_copies_that_cannot_be_made_are_refused(replicas, words):
    from aer_lightning.modules.strategies import FSDP2Strategy

    with pytest.raises(ConfigError, match=rf"replicas: .*{words}"):
        strategy = FSDP2Strategy(replicas=replicas)
        strategy.parallel_devices = [torch.device("cpu")] * 4
        strategy.setup_environment()
