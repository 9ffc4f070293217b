"""``python -m aer_lightning.convert_gguf MODEL.gguf FOLDER``: a GGUF file as a Hugging Face folder that can be trained.

Weights are unpacked to float32, so a quantised file gives the quantised model's values, not the original's. Needs the package ``gguf``.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from aer_lightning.errors import ConfigError, DataError, UserError


def convert(source: Path, folder: Path) -> None:
    """Write model, tokenizer and chat template of a GGUF file.

    Args:
        source: the file.
        folder: made if it is not there.

    Raises:
        ConfigError: ``gguf`` is not installed, or ``folder`` is not empty.
        DataError: there is no such file, or transformers does not know its architecture.
    """
    if not source.is_file():
        raise DataError(f"no file {source}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty; choose another folder, nothing was written")
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError("reading GGUF files needs the package gguf; install it with: pip install gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place, name = str(source.parent), source.name
    try:
        model = AutoModelForCausalLM.from_pretrained(
            place, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
        raise DataError(f"{source}: {str(error).strip().splitlines()[0]}") from error
    # What is saved is no longer quantised, and must not say that it is.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m aer_lightning.convert_gguf", description="A GGUF file as a Hugging Face folder.")
    parser.add_argument("source", type=Path, metavar="MODEL.gguf")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    options = parser.parse_args(argv)
    try:
        convert(options.source, options.folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"the model is in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
