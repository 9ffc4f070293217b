import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aer_lightning.errors import ConfigError, DataError
from aer_lightning.modules.network import PolicyNetwork, check_model_folder, load_causal_lm, local_folder


def load(folder):
    return load_causal_lm(str(folder), dtype="float32", trust_remote_code=False, attn_implementation=None)


def batch(vocabulary=20):
    torch.manual_seed(1)
    ids = torch.randint(3, vocabulary, (3, 12))
    attention = torch.ones(3, 12, dtype=torch.bool)
    attention[1, 9:] = False
    attention[2, 6:] = False
    response = attention.clone()
    response[:, :4] = False
    return ids.masked_fill(~attention, 0), attention, response


def reference(model, ids, attention, response, temperature):
    """Statistics from whole logits, one unpadded sequence at a time, in fp64."""
    model = model.double()
    logprob, entropy = torch.zeros(ids.shape), torch.zeros(ids.shape)
    for row in range(len(ids)):
        length = int(attention[row].sum())
        logp = torch.log_softmax(model(ids[row : row + 1, :length]).logits[0, :-1] / temperature, -1)
        for t in range(1, length):
            if response[row, t]:
                logprob[row, t] = logp[t - 1, ids[row, t]]
                entropy[row, t] = -(logp[t - 1].exp() * logp[t - 1]).sum()
    return logprob, entropy


@pytest.mark.parametrize("kind", ["random_model", "random_llama"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_statistics_are_those_of_the_whole_logits(request, kind, temperature):
    folder = request.getfixturevalue(kind)
    ids, attention, response = batch()
    logprob, entropy = PolicyNetwork(load(folder))(ids, attention, response, temperature)
    expected = reference(load(folder), ids, attention, response, temperature)
    assert torch.allclose(logprob, expected[0], atol=1e-5) and torch.allclose(entropy, expected[1], atol=1e-5)
    assert (logprob[~response] == 0).all() and (entropy[~response] == 0).all()


@pytest.mark.parametrize(("option", "value", "factor"), [("logit_scale", 0.5, 0.5), ("logits_scaling", 4.0, 0.25)])
def test_a_factor_on_the_logits_is_a_temperature(random_model, option, value, factor):
    ids, attention, response = batch()
    model = load(random_model)
    setattr(model.config, option, value)
    logprob, _ = PolicyNetwork(model)(ids, attention, response, 1.0)
    assert torch.allclose(logprob, reference(load(random_model), ids, attention, response, 1 / factor)[0], atol=1e-5)


def test_capped_logits_are_refused(random_model):
    model = load(random_model)
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ConfigError, match="final_logit_softcapping"):
        PolicyNetwork(model)


def test_padding_does_not_change_a_sequence(random_model):
    network = PolicyNetwork(load(random_model))
    ids, attention, response = batch()
    together, _ = network(ids, attention, response, 1.0)
    alone, _ = network(ids[2:, :6], attention[2:, :6], response[2:, :6], 1.0)
    assert torch.allclose(together[2:, :6], alone, atol=1e-6)


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
    from aer_lightning.kernels import chunked
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
    for name in ("linear_partials", "linear_backward"):
        monkeypatch.setattr(chunked, name, inside(getattr(chunked, name)))
    model = load(build_model("qwen3", tmp_path / "wide", vocab_size=vocabulary, hidden_size=16))
    ids = torch.randint(3, vocabulary, (rows, 24))
    response = torch.ones_like(ids, dtype=torch.bool)
    response[:, :4] = False
    network = PolicyNetwork(model, workspace_mb=8)
    tokens = int(response.sum())
    with largest:
        logprob, entropy = network(ids, torch.ones_like(response), response, 1.0)
        (logprob.sum() + entropy.sum()).backward()
    assert inner == ["linear_partials", "linear_backward"], "both passes were looked into"
    assert largest.numel == vocabulary * 16, "the head's gradient is the largest tensor with a vocabulary axis"
    assert largest.columns * tokens * 4 <= 8 * 2**20, "a block of logits stays within the workspace"


def test_dropout_is_off(tmp_path):
    from tests.conftest import build_model

    folder = build_model("qwen3", tmp_path / "dropout", attention_dropout=0.5)
    network = PolicyNetwork(load(folder)).train()
    ids, attention, response = batch()
    assert torch.equal(network(ids, attention, response, 1.0)[0], network(ids, attention, response, 1.0)[0])


def test_folder_checks(tmp_path, random_model):
    check_model_folder(str(random_model))
    check_model_folder("Qwen/Qwen3-0.6B")  # a hub name is looked at when it is loaded
    with pytest.raises(DataError, match="no folder /nowhere"):
        check_model_folder("/nowhere")
    with pytest.raises(DataError, match=r"config\.json"):
        check_model_folder(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        check_model_folder(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(DataError, match="weights"):
        check_model_folder(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="tokenizer"):
        check_model_folder(str(tmp_path))


def test_a_name_that_the_hub_does_not_give(random_model):
    assert local_folder(str(random_model)) == random_model
    with pytest.raises(DataError, match=r"^model\.init_args\.pretrained: nobody/nothing is neither a folder"):
        local_folder("nobody/nothing")
