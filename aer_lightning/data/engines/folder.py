"""What an engine reads from a Hugging Face folder: the configuration, the end tokens, and the names its weights must have."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aer_lightning.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch


def load_config(folder: Path, trust_remote_code: bool = False) -> Any:
    """The model's configuration.

    Raises:
        DataError: the folder has no readable ``config.json``.
    """
    from transformers import AutoConfig

    if not (Path(folder) / "config.json").is_file():
        raise DataError(f"{folder}: no config.json; a Hugging Face model folder is needed")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError) as error:
        raise DataError(f"{folder}/config.json cannot be read: {str(error).splitlines()[0]}") from error


def end_token_ids(folder: Path, config: Any = None, trust_remote_code: bool = False) -> tuple[int, ...]:
    """Every token that ends a completion: those of ``generation_config.json`` (else ``config.json``), the tokenizer's own, and the one
    with which the chat template ends a turn (a base model's configuration often names another).

    Raises:
        DataError: none of them names one, so that no completion could end; or a file is not JSON.
    """
    from transformers import AutoTokenizer

    ids: set[int] = set()
    path = Path(folder) / "generation_config.json"
    try:
        named = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno} is not JSON ({error.msg})") from error
    if named is None and config is not None:
        named = getattr(config.get_text_config(), "eos_token_id", None)
    if named is not None:
        ids.update(named if isinstance(named, list | tuple) else [named])
    if (Path(folder) / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if tokenizer.eos_token_id is not None:
            ids.add(int(tokenizer.eos_token_id))
        if (turn := turn_end_token_id(tokenizer)) is not None:
            ids.add(turn)
    if not ids:
        raise DataError(f"{folder}: no end token in generation_config.json, config.json or the tokenizer; set eos_token_id in one of them")
    return tuple(sorted(ids))


def turn_end_token_id(tokenizer: Any) -> int | None:
    """The token that the chat template puts right after an assistant's words; None without a template, or if it puts none.

    Example: ``<|im_end|>`` of Qwen's models, whose base models name ``<|endoftext|>`` as their end.
    """
    from jinja2 import TemplateError

    if getattr(tokenizer, "chat_template", None) is None:
        return None
    words = "Seventeen."
    turns = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": words}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except (TemplateError, ValueError, TypeError, KeyError):  # a template that wants other turns says nothing about these
        return None
    after = text.rpartition(words)[2].lstrip()
    tokens = [token for token in tokenizer.get_added_vocab() if token and after.startswith(token)]
    return int(tokenizer.convert_tokens_to_ids(max(tokens, key=len))) if tokens and words in text else None


@dataclass(frozen=True)
class WeightNames:
    """The names a state dict of the architecture has, which of them share one tensor, and their shapes.

    Attributes:
        shapes: shape of every name, aliases included.
        alias: name -> the canonical name of its tensor (itself where nothing is shared).
        embedding: name of the input embedding's weight.
        head: name of the output layer's weight; None where it has none.
    """

    shapes: dict[str, tuple[int, ...]]
    alias: dict[str, str]
    embedding: str | None
    head: str | None

    @classmethod
    def of_model(cls, model: torch.nn.Module) -> WeightNames:
        """Read the names off a Hugging Face model."""
        first: dict[int, str] = {}
        alias: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            alias[name] = first.setdefault(id(tensor), name)
            shapes[name] = tuple(tensor.shape)
        modules = {id(module): name for name, module in model.named_modules()}

        def weight_of(module: Any) -> str | None:
            name = f"{modules[id(module)]}.weight" if id(module) in modules else ""
            return name if name in shapes else None

        return cls(shapes, alias, weight_of(model.get_input_embeddings()), weight_of(model.get_output_embeddings()))  # type: ignore[operator]

    @classmethod
    def of_config(cls, config: Any, trust_remote_code: bool = False) -> WeightNames:
        """Read the names off a model without storage: no memory, no random numbers."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            return cls.of_model(AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code))

    def served(self) -> list[str]:
        """Names under which a server with an untied head holds a weight of its own."""
        return [name for name, canonical in self.alias.items() if name == canonical or name == self.head]

    def largest(self) -> int:
        """Number of elements of the largest weight."""
        return max(math.prod(shape) for shape in self.shapes.values())

    def parameters(self) -> int:
        """Number of weights a server with an untied head holds: every tensor once, a shared head once more."""
        return sum(math.prod(self.shapes[name]) for name in self.served())

    def checked(self, named_weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Pass the weights on, one at a time, and refuse what does not fit the architecture.

        Raises:
            ConfigError: a name is not the architecture's, a shape differs, or, at the end, a tensor never came. An alias of a
                shared tensor need not come; the error names what is wrong.
        """
        seen: set[str] = set()
        for name, tensor in named_weights:
            if name not in self.alias:
                raise ConfigError(f"weight sync: unexpected name {name!r}; the engine's model has {_listed(sorted(self.alias))}")
            if tuple(tensor.shape) != self.shapes[name]:
                raise ConfigError(f"weight sync: {name} has shape {tuple(tensor.shape)}, the engine's model {self.shapes[name]}")
            seen.add(self.alias[name])
            yield name, tensor
        missing = sorted(set(self.alias.values()) - seen)
        if missing:
            raise ConfigError(f"weight sync: missing {_listed(missing)}")


def _listed(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
