"""What a pack's forward and backward pass hold beside weights: traced on fake tensors through the network that trains."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch

MAX_TRACED_LAYERS = 2
TRACED_VOCABULARY = 64


def activation_bytes(
    config: Any, tokens: int, longest: int, *, mixed: bool, checkpointing: bool, gradient: bool, predicted: int | None = None
) -> int:
    """Peak of activations and temporaries of one pack, bytes.

    The real ``PolicyNetwork`` runs under torch's ``FakeTensorMode`` with one and with two decoder layers, and ``MemTracker`` notes the
    peak; the rest of the layers add what the second one did, because they are alike. The vocabulary is cut to a few tokens: what grows
    with it (gradients of embedding and head, the kernels' workspace) has its peak at other moments, and ``memory`` counts it.

    Args:
        config: transformers configuration.
        tokens: of the pack.
        longest: tokens of its longest sequence.
        mixed: products in bf16.
        checkpointing: decoder layers are recomputed in the backward pass.
        gradient: whether there is a backward pass.
        predicted: completion tokens among them; all if left out.
    """
    key = (config.to_json_string(), tokens, longest, mixed, checkpointing, gradient, predicted or tokens)
    one = _traced(*key, 1)
    if config.num_hidden_layers == 1:
        return one
    two = _traced(*key, MAX_TRACED_LAYERS)
    return one + (two - one) * (config.num_hidden_layers - 1)


@lru_cache(maxsize=64)
def _traced(json: str, tokens: int, longest: int, mixed: bool, checkpointing: bool, gradient: bool, predicted: int, layers: int) -> int:
    import json as json_module

    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker
    from transformers import AutoConfig, AutoModelForCausalLM

    from aer_lightning.modules.network import PolicyNetwork

    values = json_module.loads(json)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    config = shortened(config, layers)
    config.vocab_size, config.pad_token_id = TRACED_VOCABULARY, None
    count, rest = divmod(tokens, longest)
    lengths = (longest,) * count + ((rest,) if rest else ())
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        network = PolicyNetwork(model, backend="torch")
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        network.train(gradient)
        if gradient:  # of the packs before: the peak is then the activations' own
            for parameter in network.parameters():
                parameter.grad = torch.zeros_like(parameter)
        ids, positions = torch.zeros(tokens, dtype=torch.long), torch.arange(tokens)
        predicting, targets = torch.arange(tokens - predicted, tokens), torch.zeros(predicted, dtype=torch.long)
        tracker = MemTracker()
        tracker.track_external(network)
        mixing = torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed, cache_enabled=False)  # as Lightning's precision plugin has it
        with tracker, mixing, torch.set_grad_enabled(gradient):
            logprob, entropy = network(ids, positions, lengths, predicting, targets, 1.0)
            if gradient:
                with torch.autocast("cpu", enabled=False):
                    (logprob.sum() + entropy.sum()).backward()
        peak = tracker.get_tracker_snapshot("peak")
    total = 0
    for kinds in peak.values():
        total += sum(n for kind, n in kinds.items() if getattr(kind, "name", "") not in ("PARAM", "BUFFER", "GRAD", "") or kind == "ACT")
    return int(total)


def shortened(config: Any, layers: int) -> Any:
    """The same configuration with the first few decoder layers only."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:layers]
    return config
