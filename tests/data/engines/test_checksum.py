import pytest
import torch

from aer_lightning.data.engines import TransformersEngine
from aer_lightning.data.engines.checksum import checksum, compare_checksums, digest, sampled_part
from aer_lightning.errors import StaleWeightsError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def one_step(model: torch.nn.Module, lr: float = 1e-6) -> dict[str, torch.Tensor]:
    """The weights of ``model`` after one step of AdamW on random gradients; the model itself is left as it is."""
    parameters = {id(p): p.detach().clone().requires_grad_() for p in model.parameters()}
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    torch.optim.AdamW(parameters.values(), lr=lr, weight_decay=0.0).step()
    return {name: parameters[id(p)].detach() for name, p in model.state_dict(keep_vars=True).items()}


def differs(trainer: dict[str, torch.Tensor], engine: TransformersEngine, names: list[str]) -> bool:
    try:
        compare_checksums({name: checksum(trainer[name], engine.weight_dtype) for name in names}, engine.checksums(names))
    except StaleWeightsError:
        return True
    return False


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_step_that_was_not_synced_is_found_and_none_is_not(folders, tied, dtype):
    """The whole of a learning rate of 1e-6, where a mean |d logp| sees nothing; weights in bfloat16 as a GPU serves them."""
    folder, model = folders("qwen3", tied)
    engine = TransformersEngine(dtype=dtype)
    engine.start(folder, max_model_len=32, device=torch.device("cpu"), seed=0)
    stepped, names = one_step(model), [name for name, p in model.state_dict().items() if p.ndim == 2]
    engine.sync_weights(model.state_dict().items(), version=0)
    for first in range(3):  # a third of the matrices is enough
        assert not differs(dict(model.state_dict()), engine, names[first::3])
        assert differs(stepped, engine, names[first::3])
    engine.sync_weights(stepped.items(), version=1)
    assert not differs(stepped, engine, list(stepped))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_checksum_is_of_values_not_of_how_they_are_held(dtype):
    weight = torch.randn(40, 100, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = checksum(weight, dtype)
    assert checksum(weight.float(), dtype) == expected
    assert checksum(weight.T.contiguous().T, dtype) == expected
    assert checksum(torch.nn.Parameter(weight.float()), dtype) == expected
    assert digest(torch.tensor([-0.0, 1.0])) == digest(torch.tensor([0.0, 1.0]))
    other = weight.clone()
    other[7, 4] = torch.nextafter(other[7, 4].float(), torch.tensor(9e9)).to(dtype) * 1.01
    assert checksum(other, dtype) != expected
    assert sampled_part(weight).shape == (40, 25) and sampled_part(weight[0]).shape == (100,)


def test_what_only_one_side_has_says_nothing():
    compare_checksums({"a": "1", "b": "2"}, {"a": "1"})
    compare_checksums({"a": "1"}, {"a": "1", "b": "2"})
    with pytest.raises(StaleWeightsError, match=r"b, c, d and 1 more of 5 sampled"):
        compare_checksums(dict.fromkeys("abcde", "1"), {"a": "1", **dict.fromkeys("bcde", "2")})
