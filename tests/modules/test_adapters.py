"""LoRA: adapters on a frozen base. On two processes it is tested by tests/integration/test_lora.py."""

import pytest
import torch

from aer_lightning.callbacks import FixedCoefficient
from aer_lightning.callbacks.checkpoint import RolloutCheckpoint
from aer_lightning.checkpoints.folder import checkpoints
from aer_lightning.checkpoints.restore import read_tensors
from aer_lightning.errors import ConfigError
from aer_lightning.modules.adapters import Lora, add_adapters, is_adapter, without_adapters
from aer_lightning.modules.loading import NetworkOptions, load_network
from aer_lightning.modules.network import PolicyNetwork
from aer_lightning.modules.sharded_start import unreadable, weight_files
from aer_lightning.modules.sharding import full_state
from aer_lightning.rollout import Sample, make_pack
from tests.modules.test_attention import FAMILIES, model


def network(folder, seed=0, scale=0.0, **lora):
    """A network with adapters whose B is not 0, so that they do something."""
    built = load_network(str(folder), NetworkOptions(), Lora(**({"r": 4, "alpha": 8} | lora)), seed=seed)
    torch.manual_seed(1)
    for name, parameter in built.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(std=scale)
    return built


def pack(vocabulary=20):
    torch.manual_seed(2)
    prompts, answers = torch.randint(4, vocabulary, (2, 6)).tolist(), torch.randint(4, vocabulary, (2, 9)).tolist()
    return make_pack([Sample(str(i), "", 0, i, prompts[i], answers[i], torch.zeros(9), "stop") for i in range(2)])


@pytest.mark.parametrize("kind", ["random_model", "random_llama"])
def test_adapters_begin_as_the_base_and_merge_exactly(request, kind):
    folder = request.getfixturevalue(kind)
    plain = load_network(str(folder), NetworkOptions())
    assert torch.equal(network(folder).score(pack(), 1.0)[0], plain.score(pack(), 1.0)[0]), "B starts at 0"
    adapted = network(folder, scale=0.3)
    with torch.no_grad():
        apart = adapted.score(pack(), 1.0)
        assert (apart[0] - plain.score(pack(), 1.0)[0]).abs().max() > 0.1
        state = dict(full_state(adapted))
        assert state.keys() == plain.model.state_dict().keys()
        plain.model.load_state_dict(state)
        together = plain.score(pack(), 1.0)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(apart, together, strict=True)), "log-probabilities and entropies"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_adapters_and_can_be_read_in_shards(family, tmp_path):
    plain, adapted = PolicyNetwork(model(family)), PolicyNetwork(model(family))
    plain.model.save_pretrained(tmp_path)
    assert unreadable(plain.model, weight_files(tmp_path)) is None
    add_adapters(adapted, Lora(r=2, alpha=4), seed=0)
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.3)
    with torch.no_grad():
        before = plain.score(pack(), 1.0)[0]
        state = dict(full_state(adapted))
        assert state.keys() == plain.model.state_dict().keys()
        plain.model.load_state_dict(state)
        apart, together = adapted.score(pack(), 1.0), plain.score(pack(), 1.0)
    assert (apart[0] - before).abs().max() > 0.05
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(apart, together, strict=True))


def test_without_adapters_the_network_is_its_base(random_model):
    adapted, plain = network(random_model, scale=0.3), load_network(str(random_model), NetworkOptions())
    with torch.no_grad():
        before = adapted.score(pack(), 1.0)[0]
        with without_adapters(adapted):
            assert torch.equal(adapted.score(pack(), 1.0)[0], plain.score(pack(), 1.0)[0])
        assert torch.equal(adapted.score(pack(), 1.0)[0], before)
    assert {n for n, p in adapted.named_parameters() if p.requires_grad} == {n for n, _ in adapted.named_parameters() if is_adapter(n)}


def test_merge_agrees_with_peft(random_model, tmp_path):
    """An independent reference: peft reads the exported folder and merges by itself."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from aer_lightning.modules.adapters import save_peft

    ours = network(random_model, scale=0.3, rslora=True)
    save_peft(ours, str(random_model), tmp_path, ours.state_dict())
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(random_model), tmp_path).merge_and_unload().state_dict()
    for name, tensor in full_state(ours):
        assert torch.allclose(tensor, theirs[name], atol=1e-6), name


def test_checkpoints_hold_adapters_alone(random_model):
    a, b = network(random_model, scale=0.3), network(random_model, seed=5)
    state = a.state_dict()
    assert state and all(is_adapter(name) for name in state)
    b.load_state_dict(state)
    assert torch.equal(a.score(pack(), 1.0)[0], b.score(pack(), 1.0)[0])
    state.pop(next(iter(state)))
    with pytest.raises(RuntimeError, match="lora_"):
        b.load_state_dict(state)


def test_start_depends_on_the_seed_alone(random_model):
    one, same, other = (network(random_model, seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(t, same[n]) for n, t in one.items()) and not all(torch.equal(t, other[n]) for n, t in one.items())
    drawn = [t for n, t in one.items() if ".lora_A." in n]
    assert len({float(t.flatten()[0]) for t in drawn}) == len(drawn), "each matrix has its own numbers"
    assert all(t.abs().max() <= t.shape[1] ** -0.5 and t.std() > 0.4 * t.shape[1] ** -0.5 for t in drawn)


def test_frozen_base_in_bfloat16(random_model):
    adapted = network(random_model, base_dtype="bfloat16", scale=0.1)
    dtypes = {is_adapter(name): p.dtype for name, p in adapted.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    adapted.score(pack(), 1.0)[0].sum().backward()
    state = dict(full_state(adapted))
    assert state["model.layers.0.mlp.up_proj.weight"].dtype == torch.float32, "what the adapters add is not rounded away"


def test_full_rank_reaches_what_full_training_reaches(random_model):
    """Both learn two sequences by heart; embeddings, norms and head stay as they are in both."""

    def trained(net):
        layers = [p for name, p in net.named_parameters() if is_adapter(name) or (net.lora is None and "_proj" in name)]
        optimizer = torch.optim.AdamW(layers, lr=1e-2, weight_decay=0.0)
        for _ in range(80):
            loss = -net.score(pack(), 1.0)[0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss)

    whole = trained(load_network(str(random_model), NetworkOptions()))
    adapted = trained(network(random_model, r=32, alpha=32))
    narrow = trained(network(random_model, r=1, alpha=1))
    assert whole < 0.1 and adapted == pytest.approx(whole, abs=0.03) and narrow > whole + 0.05


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"r": 0}, ["lora.r", "at least 1"]),
        ({"alpha": 0}, ["lora.alpha"]),
        ({"dropout": 1.0}, ["lora.dropout"]),
        ({"targets": []}, ["lora.targets", "all-linear"]),
        ({"targets": "q_proj"}, ["lora.targets", "list"]),
    ],
)
def test_impossible_options(options, words):
    with pytest.raises(ConfigError) as caught:
        Lora(**options)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["q_porj", "lm_head", "embed_tokens", "proj"])
def test_targets_that_match_nothing_list_the_linear_layers(random_model, target):
    with pytest.raises(ConfigError, match=rf"lora\.targets: {target} matches no linear layer.*down_proj, gate_proj, k_proj.*v_proj"):
        network(random_model, targets=["q_proj", target])


def test_targets_choose_layers(random_model):
    names = {name.split(".lora_")[0] for name in network(random_model, targets=["v_proj", "layers.1.mlp.up_proj"]).state_dict()}
    assert names == {f"model.model.layers.{i}.self_attn.v_proj" for i in (0, 1)} | {"model.model.layers.1.mlp.up_proj"}


@pytest.mark.parametrize(("package", "options"), [("peft", {}), ("bitsandbytes", {"quantize": "nf4"})])
def test_a_missing_package_is_named(monkeypatch, package, options):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    with pytest.raises(ConfigError, match=f"needs the package {package}"):
        Lora(**options)


def test_quantized_base(random_model):
    pytest.importorskip("bitsandbytes")
    adapted = network(random_model, quantize="nf4", scale=0.1).train()  # on a CPU evaluation would go through bfloat16
    state = dict(full_state(adapted))
    plain = load_network(str(random_model), NetworkOptions())
    assert state.keys() == plain.model.state_dict().keys()
    plain.model.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(adapted.score(pack(), 1.0)[0], plain.score(pack(), 1.0)[0], atol=1e-4)
    adapted.score(pack(), 1.0)[0].sum().backward()
    assert all((p.grad is not None) == is_adapter(n) for n, p in adapted.named_parameters())


# -- in a run -----------------------------------------------------------------------------------------------------------------------------


def test_a_run_trains_adapters_against_the_base(runs, recorder):
    module = runs.module(lora=Lora(r=4, alpha=16), kl_weight=0.1, gradient_checkpointing=True)
    trainer, module, _ = runs.fit([FixedCoefficient(0.5), recorder], data=runs.data(rollouts_per_epoch=3), module=module)
    assert module._reference == [], "no second copy"
    assert recorder.rollouts[0]["train/reference_kl"] == pytest.approx(0, abs=1e-7)
    assert recorder.rollouts[-1]["train/reference_kl"] > 1e-5
    assert all(r["rollout/mismatch_logprob"] < 1e-5 for r in recorder.rollouts), "the engine has the merged weights"
    trained = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert len(trained) == len(module.state_dict()) and all(p.dtype == torch.float32 for p in trained)
    base = load_network(str(runs.model), NetworkOptions()).model.state_dict()
    frozen = {n.replace(".base_layer", ""): p for n, p in module.policy.model.named_parameters() if not is_adapter(n)}
    assert all(torch.equal(p, base[n]) for n, p in frozen.items())


def test_resume_is_exact_and_other_adapters_are_refused(runs, tmp_path):
    def module(**lora):
        return runs.module(lora=Lora(**({"r": 4, "alpha": 16} | lora)))

    _, whole, _ = runs.fit([FixedCoefficient(0.5)], data=runs.data(rollouts_per_epoch=4), module=module())
    runs.fit(
        [FixedCoefficient(0.5), RolloutCheckpoint(every_n_rollouts=1, keep_last=9)], data=runs.data(rollouts_per_epoch=4), module=module()
    )
    path = checkpoints(tmp_path / "checkpoints")[2]
    names = read_tensors(path, ["model."])
    assert path.name == "step-00000002.ckpt" and names and all(is_adapter(name) for name in names)
    parts = [FixedCoefficient(0.5), RolloutCheckpoint(keep_last=9)]
    _, resumed, _ = runs.fit(parts, data=runs.data(rollouts_per_epoch=4), module=module(), ckpt_path=path)
    state = resumed.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())
    for other, words in (
        (module(r=8), r"lora\.r: .* 4, .* 8"),
        (module(targets=["q_proj"]), r"lora\.targets"),
        (runs.module(), "adapters"),
    ):
        with pytest.raises(ConfigError, match=words):
            runs.fit(parts, data=runs.data(rollouts_per_epoch=4), module=other, ckpt_path=path)


def test_dropout_gets_a_scoring_pass_without_it(runs, recorder):
    lora = Lora(r=4, alpha=64, dropout=0.5)
    runs.fit([FixedCoefficient(0.5), recorder], data=runs.data(rollouts_per_epoch=3), module=runs.module(lora=lora))
    last = recorder.rollouts[-1]
    assert last["rollout/mismatch_logprob"] < 1e-5 and abs(last["train/ratio"] - 1) > 1e-6
