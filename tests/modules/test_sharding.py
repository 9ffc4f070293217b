"""Sharded training itself is tested by tests/integration/test_distributed.py, on two processes."""

import torch

from aer_lightning.modules.network import PolicyNetwork, load_causal_lm
from aer_lightning.modules.sharding import decoder_layers, full_state, is_fsdp1, wrap_fsdp1


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


def test_without_fsdp_nothing_is_wrapped(random_model):
    net = network(random_model)
    layers = list(net.model.model.layers)
    wrap_fsdp1(net)
    assert list(net.model.model.layers) == layers and not is_fsdp1(net) and not is_fsdp1(None)


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
        state = dict(full_state(net))
        assert all(not isinstance(t, DTensor) and torch.equal(t, expected[n]) for n, t in state.items()) and len(state) == len(expected)
    finally:
        dist.destroy_process_group()
