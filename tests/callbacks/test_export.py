import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from aer_lightning.callbacks import FixedCoefficient
from aer_lightning.callbacks.export import HFExport, save_model
from aer_lightning.errors import ConfigError


@pytest.fixture(params=["untied", "tied"])
def model(request, random_model, random_llama):
    """Folder of a model and whether it has tied embeddings."""
    return (random_llama, True) if request.param == "tied" else (random_model, False)


def logits(network, ids):
    with torch.no_grad():
        return network.eval()(input_ids=ids).logits


def weights(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


def test_loads_to_the_same_logits(runs, tmp_path, model):
    folder, tied = model
    _, module, _ = runs.fit([FixedCoefficient(0.1), HFExport()], module=runs.module(pretrained=str(folder)))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.arange(3, 19).view(2, 8)
    assert torch.equal(logits(loaded, ids), logits(module.policy.model, ids))
    assert not torch.equal(logits(loaded, ids), logits(AutoModelForCausalLM.from_pretrained(folder), ids)), "training moved it"
    assert ("lm_head.weight" in weights(tmp_path / "model")) is not tied
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) is tied
    names = {p.name for p in (tmp_path / "model").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer("3 7 25=46:")["input_ids"] == AutoTokenizer.from_pretrained(folder)("3 7 25=46:")["input_ids"]


def test_dtype_on_disk(runs, tmp_path, model):
    folder, tied = model
    _, module, _ = runs.fit([FixedCoefficient(0.1), HFExport(dtype="bfloat16")], module=runs.module(pretrained=str(folder)))
    saved = weights(tmp_path / "model")
    live = module.policy.model.state_dict()
    assert all(torch.equal(tensor, live[name].bfloat16()) for name, tensor in saved.items())
    assert ("lm_head.weight" in saved) is not tied, "casting copies, and the copy of a tied weight is not saved"
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.bfloat16
    assert module.policy.model.config.dtype in (torch.float32, "float32"), "the live model's config is as before"


def test_gathered_copies_of_tied_weights_are_saved_once(tmp_path, random_llama):
    live = AutoModelForCausalLM.from_pretrained(random_llama)
    save_model(live, {name: tensor.clone() for name, tensor in live.state_dict().items()}, None, tmp_path / "out")
    assert "lm_head.weight" not in weights(tmp_path / "out")
    ids = torch.arange(3, 11)[None]
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"), ids), logits(live, ids))


def test_a_generation_config_that_transformers_refuses_does_not_lose_the_model(tmp_path, random_model):
    live = AutoModelForCausalLM.from_pretrained(random_model)
    live.generation_config.temperature, live.generation_config.do_sample = 0.6, False
    with pytest.raises(ValueError):
        live.save_pretrained(tmp_path / "refused")
    save_model(live, live.state_dict(), None, tmp_path / "out")
    saved = GenerationConfig.from_pretrained(tmp_path / "out")
    assert saved.do_sample is True and saved.temperature == 0.6
    assert live.generation_config.do_sample is False


def test_off(runs, tmp_path):
    runs.fit([HFExport(enabled=False)])
    assert not (tmp_path / "model").exists()


def test_unknown_dtype():
    with pytest.raises(ConfigError, match=r"^export\.dtype: must be one of float32, bfloat16, float16"):
        HFExport(dtype="float64")


@pytest.mark.parametrize("adapters", ["merged", "peft", "both"])
def test_adapters_are_exported_merged_or_by_themselves(runs, tmp_path, adapters):
    from peft import PeftModel

    from aer_lightning.modules.adapters import Lora

    module = runs.module(lora=Lora(r=4, alpha=16))
    _, module, _ = runs.fit([FixedCoefficient(0.5), HFExport(adapters=adapters)], module=module)
    ids = torch.arange(3, 19).view(2, 8)
    trained = logits(module.policy.model, ids)
    base = AutoModelForCausalLM.from_pretrained(runs.model)
    assert not torch.allclose(logits(base, ids), trained, atol=1e-3)
    written = {name: (tmp_path / name).exists() for name in ("model", "adapters")}
    assert written == {"model": adapters != "peft", "adapters": adapters != "merged"}
    if written["model"]:
        assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), ids), trained, atol=1e-5)
    if written["adapters"]:
        assert torch.allclose(logits(PeftModel.from_pretrained(base, tmp_path / "adapters"), ids), trained, atol=1e-5)
