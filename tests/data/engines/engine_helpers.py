"""Tiny random models in Hugging Face folders, and an independent account of what an engine returned."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from aer_lightning.data.engines.base import Completion, GenerationRequest

VOCABULARY = ["<pad>", "<end>", *"0123456789+-*/()= ,ab"]
END = 1


def write_model(folder: Path, kind: str, tied: bool = False) -> torch.nn.Module:
    """Write a model of about 30k parameters with a character tokenizer to ``folder``; return it."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(VOCABULARY)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>").save_pretrained(folder)
    sizes = {"vocab_size": len(VOCABULARY), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256, "tie_word_embeddings": tied}
    ends = {"bos_token_id": None, "eos_token_id": END, "pad_token_id": 0}
    if kind == "gemma3":
        # half of the layers see a window of 6 tokens only
        sizes |= {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
    config_class, model_class = {
        "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
        "llama": ("LlamaConfig", "LlamaForCausalLM"),
        "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
    }[kind]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = getattr(transformers, model_class)(getattr(transformers, config_class)(**sizes, **ends))
        shake(model, 0.08)
    model.generation_config.eos_token_id = END
    model.save_pretrained(folder)
    return model.eval()


def shake(model: torch.nn.Module, scale: float, seed: int = 0) -> None:
    """Add noise to every weight: random initial models are close to uniform, and would forgive a wrong weight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


def make_requests(prompts: int, samples: int, seed: int = 0, shortest: int = 2, longest: int = 11) -> list[GenerationRequest]:
    rng = random.Random(seed)
    texts = [tuple(rng.randrange(2, len(VOCABULARY)) for _ in range(rng.randint(shortest, longest))) for _ in range(prompts)]
    return [GenerationRequest(text, rng.getrandbits(63)) for text in texts for _ in range(samples)]


@torch.no_grad()
def forced_logprobs(model: torch.nn.Module, request: GenerationRequest, completion: Completion, temperature: float) -> torch.Tensor:
    """``[len(completion)]``: one unpadded forward pass over prompt and completion, without any cache."""
    ids = torch.tensor([list(request.prompt_ids) + completion.token_ids])
    logits = model(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion.token_ids)[:, None]).squeeze(-1)


def assert_faithful(model, requests, completions, temperature: float, max_new_tokens: int, tolerance: float = 1e-4) -> None:
    """The reported log-probabilities are the model's, and every completion ends as it says."""
    assert "stop" in {completion.finish_reason for completion in completions}, "the test needs completions that end"
    assert len(completions) == len(requests)
    for request, completion in zip(requests, completions, strict=True):
        expected = forced_logprobs(model, request, completion, temperature)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=tolerance, rtol=0)
        assert END not in completion.token_ids[:-1]
        stopped = completion.token_ids[-1] == END
        assert completion.finish_reason == ("stop" if stopped else "length")
        assert stopped or len(completion.token_ids) == max_new_tokens


def chi_square_limit(degrees: int) -> float:
    """Upper quantile at 1e-6 of the chi-square distribution (Wilson and Hilferty's approximation)."""
    return degrees * (1 - 2 / (9 * degrees) + 4.753 * (2 / (9 * degrees)) ** 0.5) ** 3


def assert_samples_fit(tokens: list[int], probabilities: torch.Tensor) -> None:
    """Pearson's test of drawn tokens against exact probabilities ``[V]``; cells below 5 expected draws are pooled."""
    expected = probabilities.double() * len(tokens)
    observed = torch.bincount(torch.tensor(tokens), minlength=len(expected)).double()
    rare = expected < 5
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    observed = torch.cat([observed[~rare], observed[rare].sum()[None]])
    if expected[-1] < 5:
        expected, observed = expected[:-1], observed[:-1]
    statistic = float(((observed - expected) ** 2 / expected).sum())
    assert statistic < chi_square_limit(len(expected) - 1), (statistic, observed, expected)
