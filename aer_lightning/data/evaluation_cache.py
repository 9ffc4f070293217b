"""Completions of evaluations on disk, so that an evaluation that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aer_lightning import __version__
from aer_lightning.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from aer_lightning.data.collector import Policy
    from aer_lightning.data.stream import Encoded

FORMAT = 1


@dataclass(frozen=True, slots=True)
class KeptCompletion:
    """What an evaluation needs of a completion.

    Attributes:
        text: what the verifier reads.
        tokens: length, end token included.
        finish_reason: "stop" or "length".
    """

    text: str
    tokens: int
    finish_reason: str


class SourceCache:
    """Completions of one source's problems under one set of weights and options: a JSONL file per rank.

    Only generation is kept; answers are graded anew each time, so that a mended grader needs no new samples. A line is one problem with
    all its samples. Lines that were cut off by a kill are passed over, and a problem is taken only if its prompt encodes to the same
    tokens.

    Args:
        stem: path of the files without ``-<rank>.jsonl``.
        facts: all that the completions depend on, written as the first line of a file for people.
        rank: of this process; it reads the files of all ranks and writes its own.
    """

    def __init__(self, stem: Path, facts: dict[str, Any], rank: int = 0) -> None:
        self.facts, self.path = facts, Path(f"{stem}-{rank}.jsonl")
        self._found: dict[str, list[KeptCompletion]] = {}
        for path in sorted(stem.parent.glob(f"{stem.name}-*.jsonl")):
            self._read(path)

    def __len__(self) -> int:
        return len(self._found)

    def _read(self, path: Path) -> None:
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line)
                if "prompt" in row:
                    self._found[row["prompt"]] = [KeptCompletion(**sample) for sample in row["samples"]]
            except (ValueError, TypeError, KeyError):
                continue  # the end of a file whose writer was killed

    def get(self, prompt: Encoded) -> list[KeptCompletion] | None:
        """The samples of a problem, None if there are none."""
        return self._found.get(prompt_key(prompt))

    def add(self, prompts: Sequence[Encoded], samples: Sequence[Sequence[KeptCompletion]]) -> None:
        """Keep the samples of some problems; they are on disk when this returns."""
        rows: list[dict[str, Any]] = [] if self.path.exists() else [{"format": FORMAT, "depends_on": self.facts}]
        for prompt, group in zip(prompts, samples, strict=True):
            key = prompt_key(prompt)
            self._found[key] = list(group)
            rows.append({"prompt": key, "id": prompt[0].id, "samples": [asdict(sample) for sample in group]})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    text = "\n" + text  # after a line that was cut off
            file.write(text.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())


class EvaluationCache:
    """The folder of all sources' files.

    Args:
        folder: where they lie; made when there is something to write.
        facts: what completions of every source depend on beside the weights: samples, sampling, seed, engine, model files.
        policy: has the weights; they are hashed once for each version of them.
        rank: of this process.

    Raises:
        ConfigError: ``folder`` is a file.
    """

    def __init__(self, folder: str | Path, facts: dict[str, Any], policy: Policy, rank: int = 0) -> None:
        self.folder, self.facts, self.policy, self.rank = Path(folder), facts, policy, rank
        self._weights: dict[int, str] = {}
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"data.init_args.eval_cache: {folder} is a file; give a folder")

    def open(self, source: str) -> SourceCache:
        """The completions of one source under the current weights. Collective under sharding."""
        version = self.policy.weight_version
        if version not in self._weights:
            self._weights[version] = weights_fingerprint(self.policy.full_weights())
        facts = self.facts | {"weights": self._weights[version], "source": source, "format": FORMAT, "version": __version__}
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
        return SourceCache(self.folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', source)}-{key}", facts, self.rank)


def prompt_key(prompt: Encoded) -> str:
    """Name of a problem as the model reads it: its id, which seeds its samples, and its tokens."""
    return hashlib.sha256(json.dumps([prompt[0].id, list(prompt[1])]).encode()).hexdigest()[:32]


def weights_fingerprint(named_weights: Iterable[tuple[str, Tensor]]) -> str:
    """Hash of the names, types, shapes and bytes of all weights; about 1 s per GB.

    Args:
        named_weights: full tensors on any device; the order does not matter.
    """
    import torch

    digests = []
    for name, tensor in named_weights:
        digest = hashlib.sha256(f"{name}\x1f{tensor.dtype}\x1f{list(tensor.shape)}\x1f".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        digests.append(digest.hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:32]


def files_fingerprint(folder: Path) -> str:
    """Hash of a model folder's configuration and tokenizer: which tokens end a completion, and how ids become text."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".jinja", ".model", ".txt") and p.is_file()):
        digest.update(f"{path.name}\x1f".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def engine_facts(engine: Any, device: Any) -> dict[str, Any]:
    """The engine's class, device and the options it was built with: precision and batching change the last digits of probabilities."""
    names = inspect.signature(type(engine).__init__).parameters
    facts = {"class": type(engine).__name__, "device": str(getattr(device, "type", device))}
    return facts | {name: getattr(engine, name) for name in names if name != "self" and hasattr(engine, name)}
