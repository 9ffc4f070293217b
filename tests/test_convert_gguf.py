"""A GGUF file written here comes out as a folder with the same weights."""

from __future__ import annotations

import json

import pytest
import torch

from aer_lightning.convert_gguf import convert, main
from aer_lightning.errors import ConfigError, DataError

WORDS = ["<unk>", "<s>", "</s>", *"abcdefgh", "ab"]


@pytest.fixture
def gguf_file(tmp_path):
    """A Llama of one layer with random float32 weights; path and tensors by their GGUF names."""
    gguf = pytest.importorskip("gguf", reason="needs the package gguf")
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    shapes = {"token_embd": (len(WORDS), 16), "output": (len(WORDS), 16), "output_norm": (16,)}
    shapes |= {f"blk.0.attn_{n}": (16, 16) for n in ("q", "k", "v", "output")} | {"blk.0.attn_norm": (16,), "blk.0.ffn_norm": (16,)}
    shapes |= {"blk.0.ffn_gate": (32, 16), "blk.0.ffn_up": (32, 16), "blk.0.ffn_down": (16, 32)}
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, tensors


def test_weights_and_tokenizer(gguf_file, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, tensors = gguf_file
    assert main([str(path), str(tmp_path / "folder")]) == 0
    assert "quantization_config" not in json.loads((tmp_path / "folder" / "config.json").read_text())
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "folder").state_dict()
    assert torch.equal(state["model.embed_tokens.weight"], tensors["token_embd"])
    assert torch.equal(state["lm_head.weight"], tensors["output"])
    assert torch.equal(state["model.layers.0.mlp.down_proj.weight"], tensors["blk.0.ffn_down"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert tokenizer.eos_token_id == 2 and tokenizer.chat_template == "{{ messages[0]['content'] }}"


def test_what_cannot_be_converted(tmp_path, monkeypatch, capsys):
    import importlib.util

    with pytest.raises(DataError, match=r"no file .*none\.gguf"):
        convert(tmp_path / "none.gguf", tmp_path / "out")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious").write_text("")
    with pytest.raises(ConfigError, match=r"full exists and is not empty"):
        convert(tmp_path / "model.gguf", full)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else real(name, *a))
    assert main([str(tmp_path / "model.gguf"), str(tmp_path / "out")]) == 2
    assert "pip install gguf" in capsys.readouterr().err and not (tmp_path / "out").exists()
