import json
import shutil

import pytest
import torch

from aer_lightning.data.engines.folder import WeightNames, end_token_ids, load_config
from aer_lightning.errors import DataError


@pytest.fixture
def copy(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders("qwen3", True)[0], folder)
    return folder


def edit(path, **changes):
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_end_tokens_come_from_generation_configuration_and_tokenizer(copy):
    config = load_config(copy)
    assert end_token_ids(copy, config) == (1,)
    edit(copy / "generation_config.json", eos_token_id=[9, 4])
    assert end_token_ids(copy, config) == (1, 4, 9)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (CHATML, ["<|im_end|>"]),
        (CHATML.replace("<|im_end|>", " <|im_end|><|x|>"), ["<|im_end|>"]),
        (CHATML.replace("<|im_end|>", ""), []),
        ("{{ raise_exception('system first') }}", []),
        (None, []),
    ],
)
def test_the_chat_templates_end_of_turn_ends_a_completion(copy, template, ends):
    """As in a base model: its configuration names another token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|x|>"]})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(copy)
    assert end_token_ids(copy, load_config(copy)) == tuple(sorted({1, *tokenizer.convert_tokens_to_ids(ends)}))


def test_the_models_configuration_is_asked_where_generation_names_none(copy):
    (copy / "generation_config.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    edit(copy / "config.json", eos_token_id=6)
    assert end_token_ids(copy, load_config(copy)) == (6,)


def test_a_folder_without_any_end_token_is_refused(copy):
    (copy / "generation_config.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    edit(copy / "config.json", eos_token_id=None)
    with pytest.raises(DataError, match="no end token"):
        end_token_ids(copy, load_config(copy))


def test_what_is_not_json_is_named(copy):
    (copy / "generation_config.json").write_text('{"eos_token_id": 1,\n oops}')
    with pytest.raises(DataError, match=r"generation_config\.json: line 2"):
        end_token_ids(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json cannot be read"):
        load_config(copy)


@pytest.mark.parametrize("tied", [False, True])
def test_names_are_those_of_the_state_dict_without_its_memory(folders, tied):
    folder, model = folders("llama", tied)
    before = torch.get_rng_state()
    names = WeightNames.of_config(load_config(folder))
    assert torch.equal(torch.get_rng_state(), before)
    assert names.shapes == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert (names.embedding, names.head) == ("model.embed_tokens.weight", "lm_head.weight")
    assert (names.alias["lm_head.weight"] == "model.embed_tokens.weight") == tied
    head = model.lm_head.weight.numel()
    assert names.parameters() == sum(parameter.numel() for parameter in model.parameters()) + (head if tied else 0)
