"""The tokenizer that goes with a policy."""

from __future__ import annotations

from typing import Any

from aer_lightning.errors import DataError


def load_tokenizer(name: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model folder or hub name.

    Raises:
        DataError: there is none, or it has neither a padding nor an end token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise DataError(f"model.init_args.pretrained: no tokenizer in {name} ({first}); save one beside the model") from None
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise DataError(f"model.init_args.pretrained: the tokenizer of {name} has neither a padding nor an end token; set one")
    return tokenizer
