"""Files that are not what they should be: one line that names the file and says what is wrong; nothing waits or is made up."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from aer_lightning.errors import DataError
from aer_lightning.modules.loading import NetworkOptions, load_network

BASE = ("fit", "-c", "configs/aer.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"# nothing\n", ["empty"]),
        (b"\x00\x01\x02", ["no text"]),
        (b"\x7fELF\xff\xfe", ["UTF-8"]),
        ("name: größe\n".encode("latin-1"), ["UTF-8"]),
        (b"trainer:\n  max_epochs: 1\n  devices: 1\n  max_epochs: 2\n", ["max_epochs", "twice", "2 and 4"]),
        (b"name: one\nname: two\n", ["name", "twice"]),
        (b"- 1\n- 2\n", ["list"]),
        (b"just words\n", ["str"]),
        (b"trainer: {max_epochs: 1\n", ["line 2", "YAML"]),
        (b"trainer: *nowhere\n", ["line 1", "YAML"]),
        (b"[" * 2000, ["nested"]),
        (b"model:\n  init_args:\n    pretrained: ${nope.nothing}\n", ["model.init_args.pretrained", "nope.nothing"]),
        (b"#" * (1 << 20) + b"#", ["bytes"]),
    ],
    ids=["empty", "comment", "NUL", "binary", "latin", "key", "top key", "list", "text", "open", "anchor", "deep", "interpolation", "huge"],
)
def test_configuration_files(cli, small, random_model, tmp_path, before_loading, content, words):
    path = tmp_path / "overlay.yaml"
    path.write_bytes(content)
    message = cli.refused(*BASE, "-c", path, *[o for o in small(random_model, tmp_path / "run") if "pretrained" not in o])
    assert str(path) in message and all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["fifo", "zero", "folder"])
def test_configurations_that_never_end(cli, tmp_path, before_loading, kind):
    path = {"fifo": tmp_path / "fifo", "zero": "/dev/zero", "folder": tmp_path}[kind]
    if kind == "fifo":
        os.mkfifo(path)
    assert cli.refused("fit", "-c", path).startswith(f"config: {path} is no regular file")


GOOD = json.dumps({"id": "a", "problem": "1 2=3", "answer": "3"}) + "\n"


@pytest.mark.parametrize("kind", ["fifo", "zero", "line", "surrogate"])
def test_prompt_files(cli, small, random_model, tmp_path, before_loading, monkeypatch, kind):
    monkeypatch.setattr("aer_lightning.data.prompts.jsonl.LONGEST_LINE", 1 << 16)
    data = tmp_path / "problems.jsonl"
    words = {"fifo": "no regular file", "zero": "no regular file", "line": "line 2 is longer", "surrogate": "half a character"}[kind]
    if kind == "fifo":
        os.mkfifo(data)
    elif kind == "zero":
        data.symlink_to("/dev/zero")
    else:
        second = (
            '{"id": "b", "problem": "' + "1" * (1 << 17) + '"}' if kind == "line" else '{"id": "b", "problem": "\\ud800", "answer": "1"}'
        )
        data.write_text(GOOD + second + "\n")
    overlay = tmp_path / "jsonl.yaml"
    prompts = {"class_path": "aer_lightning.data.prompts.JsonlPrompts", "init_args": {"path": str(data), "template": "{problem}:"}}
    overlay.write_text(json.dumps({"data": {"init_args": {"prompts": prompts, "evaluation": []}}}))
    message = cli.refused(*BASE, "-c", overlay, *small(random_model, tmp_path / "run"))
    assert str(data) in message and words in message, message


def test_grading_an_endless_line(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("aer_lightning.grade._LONGEST_LINE", 1 << 16)
    status, out, err = cli.run("grade", "/dev/zero")
    assert status == 2 and "/dev/zero: line 1 is longer" in err and "Traceback" not in out + err


@pytest.fixture
def folder(random_model, tmp_path):
    return shutil.copytree(random_model, tmp_path / "model")


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_a_file(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    files = {name: f"model-0000{1 + (name == 'lm_head.weight')}-of-00002.safetensors" for name in weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def quantize(weights):
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.int8)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncate, ["model.safetensors", "cut short"]),
        (lambda f: (f / "model.safetensors").write_bytes(b"garbage"), ["model.safetensors", "damaged"]),
        (lose_a_file, ["model-00002-of-00002.safetensors", "missing"]),
        (lambda f: change_weights(f, quantize), ["lm_head.weight", "I8", "quantized"]),
        (lambda f: change_config(f, model_type="t5", architectures=["T5ForConditionalGeneration"]), ["causal", "t5"]),
        (lambda f: change_config(f, model_type="bert", architectures=["BertForMaskedLM"]), ["causal", "BertForMaskedLM"]),
        (lambda f: (f / "config.json").write_text("[1]"), ["config.json", "object"]),
        (lambda f: change_config(f, max_position_embeddings=20), ["20 positions", "max_new_tokens"]),
        (lambda f: change_config(f, vocab_size=10), ["10 rows", "tokenizer"]),
    ],
    ids=["truncated", "garbage", "missing", "int8", "t5", "bert", "config", "positions", "vocabulary"],
)
def test_model_folders(cli, small, folder, tmp_path, before_loading, spoil, words):
    spoil(folder)
    message = cli.refused(*BASE, *small(folder, tmp_path / "run"))
    assert str(folder) in message and all(word in message for word in words), message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"), "no weights for model.layers.1.mlp.up_proj.weight"),
        (lambda weights: weights["lm_head.weight"][3].fill_(float("nan")), "lm_head.weight .* NaN"),
        (lambda weights: weights.update({"model.norm.weight": torch.ones(7)}), "model.norm.weight .* another shape"),
    ],
    ids=["missing", "NaN", "shape"],
)
def test_weights_are_never_made_up(folder, change, words):
    change_weights(folder, change)
    with pytest.raises(DataError, match=words):
        load_network(str(folder), NetworkOptions())
