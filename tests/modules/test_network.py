import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aer_lightning.algorithms import EntropyScope
from aer_lightning.modules.loading import load_causal_lm
from aer_lightning.modules.network import PolicyNetwork
from aer_lightning.rollout import Sample, make_pack


def load(folder):
    return load_causal_lm(str(folder), dtype="float32", trust_remote_code=False, attn_implementation=None)


def samples(lengths=((4, 8), (4, 5), (4, 2)), vocabulary=20):
    torch.manual_seed(1)
    return [
        Sample(
            f"p{i}",
            "",
            0,
            i,
            torch.randint(3, vocabulary, (p,)).tolist(),
            torch.randint(3, vocabulary, (n,)).tolist(),
            torch.zeros(n),
            "stop",
        )
        for i, (p, n) in enumerate(lengths)
    ]


def reference(model, rows, temperature=1.0):
    """Statistics from whole logits, one sequence at a time, in the model's dtype; [N] each."""
    logprob, entropy = [], []
    for s in rows:
        logp = torch.log_softmax(model(torch.tensor([s.prompt_ids + s.token_ids])).logits[0, len(s.prompt_ids) - 1 : -1] / temperature, -1)
        logprob.append(logp.gather(1, torch.tensor(s.token_ids)[:, None])[:, 0])
        entropy.append(-(logp.exp() * logp).sum(-1))
    return torch.cat(logprob), torch.cat(entropy)


@pytest.mark.parametrize("kind", ["random_model", "random_llama"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_statistics_are_those_of_the_whole_logits(request, kind, temperature):
    folder = request.getfixturevalue(kind)
    logprob, entropy = PolicyNetwork(load(folder)).score(make_pack(samples()), temperature)
    expected = reference(load(folder).double(), samples(), temperature)
    assert torch.allclose(logprob.double(), expected[0], atol=1e-5) and torch.allclose(entropy.double(), expected[1], atol=1e-5)


def top_entropy(logp, scope):
    """Entropy of each row [V] over the top of its distribution, renormalised, by sorting."""
    rows = []
    for row in logp:
        probability = row.exp().sort(descending=True).values
        if scope.top_share is not None:
            count = -int(-scope.top_share * len(row) // 1)
        else:
            count = int((probability.cumsum(0) < scope.top_p).sum()) + 1
        kept = probability[:count] / probability[:count].sum()
        rows.append(-(kept * kept.log()).sum())
    return torch.stack(rows)


@pytest.mark.parametrize(
    "scope", [EntropyScope(top_share=0.6), EntropyScope(top_share=0.05), EntropyScope(top_p=0.8), EntropyScope(top_p=0.3)]
)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropy_over_the_top_of_the_vocabulary_and_its_gradient(random_model, scope, temperature):
    """Against sorted whole logits in fp64; the first two results stay those of the whole vocabulary."""
    network, exact = PolicyNetwork(load(random_model)), load(random_model).double()
    pack = make_pack(samples())
    logprob, entropy, over_top = network.score(pack, temperature, scope.top())
    whole = network.score(pack, temperature)
    assert torch.equal(logprob, whole[0]) and torch.equal(entropy, whole[1]) and (over_top <= entropy + 1e-5).all()
    parts = []
    for s in samples():
        logits = exact(torch.tensor([s.prompt_ids + s.token_ids])).logits[0, len(s.prompt_ids) - 1 : -1]
        parts.append(top_entropy(torch.log_softmax(logits / temperature, -1), scope))
    expected = torch.cat(parts)
    assert torch.allclose(over_top.double(), expected, atol=1e-5)
    weight = torch.linspace(-1, 1, len(expected))
    (over_top * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    for ours, theirs in zip(network.model.parameters(), exact.parameters(), strict=True):
        assert torch.allclose(ours.grad.double(), theirs.grad, atol=1e-5)


@pytest.mark.parametrize(("option", "value", "factor"), [("logit_scale", 0.5, 0.5), ("logits_scaling", 4.0, 0.25)])
def test_a_factor_on_the_logits_is_a_temperature(random_model, option, value, factor):
    model = load(random_model)
    setattr(model.config, option, value)
    logprob, _ = PolicyNetwork(model).score(make_pack(samples()), 1.0)
    assert torch.allclose(logprob, reference(load(random_model), samples(), 1 / factor)[0], atol=1e-5)


def test_capped_logits(random_model):
    """As in Gemma 2: cap tanh(z / cap), before the temperature."""
    model = load(random_model)
    model.config.final_logit_softcapping = 0.05
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(3)
    pack = make_pack(samples())
    logprob, entropy = PolicyNetwork(model).score(pack, 0.7)
    model = load(random_model)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(3)
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, logits: 0.05 * torch.tanh(logits / 0.05))
    wanted = reference(model, samples(), 0.7)
    assert torch.allclose(logprob, wanted[0], atol=1e-5) and torch.allclose(entropy, wanted[1], atol=1e-5)


def test_packs_of_a_step_share_the_cast_of_an_fp32_head(random_model):
    model = load(random_model)
    network = PolicyNetwork(model).train()
    pack = make_pack(samples())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network.score(pack, 1.0)
        first = network._head_cast
        network.score(pack, 1.0)
        assert first is not None and network._head_cast is first and first[1].dtype == torch.bfloat16
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(2)
        network.score(pack, 1.0)
        assert network._head_cast is not first, "a new version of the weights"
    network.release()
    assert network._head_cast is None


class Largest(TorchDispatchMode):
    """The largest tensor with a vocabulary axis that any operation returns, in elements, and the widest block of logits."""

    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary, self.numel, self.columns = vocabulary, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.dim() > 1:
                if self.vocabulary in tensor.shape:
                    self.numel = max(self.numel, tensor.numel())
                if tensor.shape[0] == 64 * 20:
                    self.columns = max(self.columns, tensor.shape[-1])
        return out


def test_no_logits_tensor_of_the_batch_in_a_training_step(tmp_path, monkeypatch):
    from aer_lightning.kernels import walk
    from tests.conftest import build_model

    vocabulary, rows = 30_011, 64
    largest = Largest(vocabulary)

    def inside(function):
        # A custom operator hides from the mode what it does, so the mode is entered again within it.
        def run(*args, **kwargs):
            with largest:
                inner.append(function.__name__)
                return function(*args, **kwargs)

        return run

    inner = []
    for name in ("forward", "backward"):
        monkeypatch.setattr(walk, name, inside(getattr(walk, name)))
    model = load(build_model("qwen3", tmp_path / "wide", vocab_size=vocabulary, hidden_size=16))
    pack = make_pack(samples([(4, 20)] * rows, vocabulary))
    network = PolicyNetwork(model, memory_mb=8)
    tokens = len(pack.targets)
    with largest:
        logprob, entropy = network.score(pack, 1.0)
        (logprob.sum() + entropy.sum()).backward()
    assert inner == ["forward", "backward"], "both passes were looked into"
    assert largest.numel == vocabulary * 16, "the head's gradient is the largest tensor with a vocabulary axis"
    assert largest.columns * tokens * 4 <= 8 * 2**20, "a block of logits stays within the budget"


def test_dropout_is_off(tmp_path):
    from tests.conftest import build_model

    folder = build_model("qwen3", tmp_path / "dropout", attention_dropout=0.5)
    network = PolicyNetwork(load(folder)).train()
    pack = make_pack(samples())
    assert torch.equal(network.score(pack, 1.0)[0], network.score(pack, 1.0)[0])
