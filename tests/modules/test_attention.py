"""Packed, padded and one by one give the same log-probabilities, entropies and gradients, for every family of decoder."""

import pytest
import torch
import transformers

from aer_lightning.modules.attention import Segments, cannot_pack, like_lengths, packed_attention
from aer_lightning.modules.network import PolicyNetwork
from aer_lightning.rollout import make_pack
from tests.modules.test_network import reference, samples

BASE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}
FAMILIES = {
    "Qwen3": {"head_dim": 8},
    "Qwen3 window": {"head_dim": 8, "use_sliding_window": True, **LAYERS},
    "Qwen2": {},
    "Llama": {"tie_word_embeddings": True},
    "Mistral": {"sliding_window": 6},
    "Gemma3": {"head_dim": 8, **LAYERS},
    "Phi3": {},
    "Granite": {"logits_scaling": 2.0},
    "Cohere": {"logit_scale": 0.5},
}
LENGTHS = ((3, 9), (4, 2), (5, 11), (2, 1), (4, 2))


def model(name, seed=0):
    kind = name.split()[0]
    config = getattr(transformers, "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config")
    torch.manual_seed(seed)
    return getattr(transformers, f"{kind}ForCausalLM")(config(**(BASE | FAMILIES.get(name, {})))).eval()


def shared(rows):
    """The same lengths, with prompts and beginnings of completions in common."""
    first, second, third, fourth, last = rows
    third.prompt_ids, third.token_ids[:4] = first.prompt_ids + third.prompt_ids[3:], first.token_ids[:4]
    last.prompt_ids, last.token_ids = list(second.prompt_ids), list(second.token_ids)
    fourth.prompt_ids = first.prompt_ids[:2]
    return rows


def gradients(net, packs):
    net.zero_grad()
    results = [net.score(make_pack(pack), 1.0) for pack in packs]
    logprob, entropy = (torch.cat(parts) for parts in zip(*results, strict=True))
    (logprob * torch.linspace(-1, 1, len(logprob)) + entropy * torch.linspace(0.1, 2, len(entropy))).sum().backward()
    return logprob.detach(), entropy.detach(), torch.cat([p.grad.flatten() for p in net.parameters()])


@pytest.mark.parametrize("arrange", [list, shared])
@pytest.mark.parametrize("name", FAMILIES)
def test_packed_padded_and_one_by_one_agree(name, arrange):
    rows = arrange(samples(LENGTHS, 60))
    expected = reference(model(name).double(), rows)
    packed = PolicyNetwork(model(name))
    assert not packed.padded and packed.notice is None
    padded = PolicyNetwork(model(name), attn_implementation="sdpa")
    padded.padded = True
    row = PolicyNetwork(model(name), attn_implementation="sdpa")
    results = {
        "packed": gradients(packed, [rows]),
        "one by one": gradients(packed, [[s] for s in rows]),
        "padded": gradients(padded, [rows]),
        "a block mask": gradients(row, [rows]),
    }
    logprob, entropy, gradient = results["packed"]
    assert torch.allclose(logprob.double(), expected[0], atol=1e-5) and torch.allclose(entropy.double(), expected[1], atol=1e-5)
    for way, (lp, h, g) in results.items():
        assert (lp - logprob).abs().max() < 2e-6 and (h - entropy).abs().max() < 2e-6, way
        assert (g - gradient).norm() / gradient.norm() < 1e-6, way


def test_what_is_shared_is_computed_once_and_under_dropout_apart(monkeypatch):
    net = PolicyNetwork(model("Qwen3"))
    seen = []
    monkeypatch.setattr(net, "_row", lambda ids, *a: (seen.append(len(ids)), PolicyNetwork._row(net, ids, *a))[1])
    pack = make_pack(shared(samples(LENGTHS, 60)))
    values = [net.score(pack, 1.0)[0]]
    net.model.dropout = torch.nn.Dropout(0.1)  # never called
    values += [net.eval().score(pack, 1.0)[0], net.train().score(pack, 1.0)[0]]
    assert seen[0] == seen[1] < seen[2] == sum(pack.lengths) == 11 + 5 + 15 + 2 + 5
    assert torch.allclose(values[0], values[2], atol=1e-6) and torch.equal(values[0], values[1])


def test_no_mask_is_ever_built(monkeypatch):
    seen = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *a, attn_mask=None, **k: (seen.append(attn_mask), real(*a, attn_mask=attn_mask, **k))[1],
    )
    PolicyNetwork(model("Qwen3")).score(make_pack(samples(LENGTHS, 60)), 1.0)
    assert seen and all(mask is None for mask in seen)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("GptOss", {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8}, "sinks"),
        ("Mamba", {}, "linear_attention"),
    ],
)
def test_a_model_that_cannot_be_packed_is_trained_padded_with_a_notice(monkeypatch, name, changes, reason):
    monkeypatch.setitem(FAMILIES, name, changes)
    net = PolicyNetwork(model(name))
    assert net.padded and reason in cannot_pack(model(name)) and reason in net.notice
    rows = samples(((4, 6), (4, 2)), 60)
    logprob, _ = net.score(make_pack(rows), 1.0)
    assert torch.allclose(logprob, reference(model(name), rows)[0], atol=1e-5)


def test_long_sequences_stand_alone_and_short_ones_share():
    groups = like_lengths((30, 4000, 28, 3990, 2000, 31))
    assert sorted(map(sorted, groups)) == [[0, 2, 5], [1], [3], [4]]
    segments = Segments.of((3, 5), torch.device("cpu"))
    assert segments.offsets.tolist() == [0, 3, 8] and segments.inverse.numel() == 8


@pytest.mark.parametrize("window", [None, 4])
def test_soft_capped_scores(window):
    """Gemma 2's cap on the scores, against a loop in fp64."""
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 12, 8), torch.randn(1, 2, 12, 8), torch.randn(1, 2, 12, 8)
    out, _ = packed_attention(None, q, k, v, None, segments=Segments.of((7, 5), q.device), scaling=0.3, softcap=2.0, sliding_window=window)
    for start, end in ((0, 7), (7, 12)):
        for head in range(4):
            for t in range(start, end):
                first = max(start, t - window + 1) if window else start
                z = 2.0 * torch.tanh(k[0, head // 2, first : t + 1].double() @ q[0, head, t].double() * 0.3 / 2.0)
                expected = torch.softmax(z, 0) @ v[0, head // 2, first : t + 1].double()
                assert torch.allclose(out[0, t, head].double(), expected, atol=1e-5)
