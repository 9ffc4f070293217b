import torch
from torch import nn

from aer_lightning.data.engines.checksum import checksum
from aer_lightning.data.engines.served import served_checksums

FP32 = torch.float32


class Mapper:
    """Renames as vLLM's: another prefix, and the parts of a stacked module under the stacked one's name."""

    def map_name(self, name: str) -> str | None:
        if "rotary" in name:
            return None
        for part in ("q_proj", "k_proj", "v_proj"):
            name = name.replace(part, "qkv_proj")
        return name.replace("model.", "language_model.model.", 1)


class Packed:
    """What vLLM leaves of a linear layer on a CPU: no weight, only the product."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    def apply(self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        assert bias is None
        return x @ self.weight.T


def served(weights: dict[str, torch.Tensor]) -> nn.Module:
    model, inner, attention = nn.Module(), nn.Module(), nn.Module()
    model.hf_to_vllm_mapper = Mapper()
    model.packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
    model.language_model = nn.Module()
    model.language_model.model = inner
    inner.attention = attention
    parts = [weights[f"model.attention.{x}_proj.weight"] for x in "qkv"]
    attention.qkv_proj = nn.Module()
    attention.qkv_proj.weight = nn.Parameter(torch.empty(0))
    attention.qkv_proj.quant_method = Packed(torch.cat(parts))
    attention.qkv_proj.output_sizes = [len(part) for part in parts]
    attention.qkv_proj.bias = nn.Parameter(torch.cat([weights[f"model.attention.{x}_proj.bias"] for x in "qkv"]))
    inner.gate_up_proj = nn.Module()
    inner.gate_up_proj.weight = nn.Parameter(torch.cat([weights["model.gate_proj.weight"], weights["model.up_proj.weight"]]))
    inner.gate_up_proj.output_sizes = [6, 6]
    inner.norm = nn.Module()
    inner.norm.weight = nn.Parameter(weights["model.norm.weight"])
    inner.embed = nn.Module()
    inner.embed.weight = nn.Parameter(torch.cat([weights["model.embed.weight"], torch.zeros(5, 40)]))  # padded, as vLLM's are
    return model


def example() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"q_proj.weight": (8, 40), "k_proj.weight": (4, 40), "v_proj.weight": (4, 40)}
    shapes |= {"q_proj.bias": (8,), "k_proj.bias": (4,), "v_proj.bias": (4,)}
    weights = {f"model.attention.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name, shape in {"gate_proj": (6, 40), "up_proj": (6, 40), "norm": (40,), "embed": (11, 40)}.items():
        weights[f"model.{name}.weight"] = torch.randn(shape, generator=generator)
    return weights


def test_renamed_stacked_padded_and_packed_weights_are_read_back():
    weights = example()
    read = served_checksums(served(weights), {name: tuple(tensor.shape) for name, tensor in weights.items()})
    assert read == {name: checksum(tensor, FP32) for name, tensor in weights.items()}


def test_each_part_of_a_stacked_weight_is_told_from_the_others():
    weights = example()
    model = served(weights)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    expected = served_checksums(model, shapes)
    model.language_model.model.attention.qkv_proj.quant_method.weight[9] += 1  # a row of k_proj
    after = served_checksums(model, shapes)
    assert {name for name in expected if after[name] != expected[name]} == {"model.attention.k_proj.weight"}


def test_what_cannot_be_read_is_left_out():
    model = served(example())
    shapes = {
        "model.rotary.inv_freq": (4,),
        "model.experts.gate_up.weight": (2, 3, 4),
        "model.norm.weight": (41,),
        "model.norm.bias": (40,),
        "model.embed.weight": (99, 40),
        "lm_head.weight": (11, 40),
    }
    assert served_checksums(model, shapes) == {}
