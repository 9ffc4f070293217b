"""A random causal LM that reads any ASCII text and has a chat template: the path of a real language model in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")


def build_chat_model(kind: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Save a random ``qwen3`` or ``llama`` (which ties its head to its embedding) of about 30,000 parameters with its tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    characters = ["\n", *map(chr, range(32, 127)), "\N{RIGHT SINGLE QUOTATION MARK}"]
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate((*SPECIAL, *characters))}, merges=[], unk_token="<pad>"))
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<|end|>", extra_special_tokens=list(SPECIAL[2:])
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    values = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": kind == "llama",
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "initializer_range": 0.2,
    } | changes
    config, model = (Qwen3Config, Qwen3ForCausalLM) if kind == "qwen3" else (LlamaConfig, LlamaForCausalLM)
    if kind == "qwen3":
        values["head_dim"] = 8
    model(config(**values)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
