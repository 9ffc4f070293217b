r"""Presets for the benchmarks of mathematical reasoning: from the hub by default, or from a local JSONL file.

``AIME24``, ``AIME25``, ``AMC23``, ``MATH500`` and ``GSM8K`` know their data set on the hub, its split and its columns, and ask for the
answer in ``\boxed{}`` through the tokenizer's chat template. For other files and wordings there are ``JsonlPrompts`` and ``HubPrompts``.

Where the answer is read: the public graders of MATH (also used for AIME and AMC) take the last box and nothing else, as the default here
does; GSM8K's own takes what follows ``####``, and its usual relaxed one the last number: ``extract: final_answer`` and ``last_number``. All
of them pay an expression of the gold value too, ``evaluated: false`` here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from aer_lightning.data.prompts.hub import HubPrompts
from aer_lightning.data.prompts.jsonl import JsonlPrompts
from aer_lightning.data.prompts.problems import ProblemPrompts

if TYPE_CHECKING:
    from aer_lightning.data.rewards.base import Grader

BOXED = "{problem}\n\nWork it out step by step and write the final answer in \\boxed{}."


class Benchmark(ProblemPrompts):
    """A benchmark of the hub, or a copy of it in a local file with lines ``{"id", "problem", "answer"}``.

    Args:
        path: a local file that ends in ``.jsonl``, or another name on the hub with the same columns; the preset's own by default.
        split: of the hub's data set; the preset's own by default. A local file is taken whole.
        revision: branch, tag or commit on the hub; set it for results that can be repeated.
        template: text of the prompt, with ``{problem}`` once in it.
        chat: hand the text to the tokenizer's chat template, as the user's message, instead of reading it as it is.
        system_prompt: system message before it; needs ``chat``.
        grader: judges completions; ``MathGrader`` by default, of the box alone where the template or the system prompt asks for one.
        name: name in metrics.
        label_field: field whose value groups problems in reports; null for one group.
        limit: keep the first so many problems.

    Raises:
        ConfigError: an option is out of range or options contradict each other.
    """

    option = "prompts.path"
    title: ClassVar[str]
    hub: ClassVar[dict[str, Any]]  # arguments of HubPrompts: where the data set is and how its columns are called

    def __init__(
        self,
        path: str | None = None,
        split: str | None = None,
        revision: str | None = None,
        template: str = BOXED,
        chat: bool = True,
        system_prompt: str | None = None,
        grader: Grader | None = None,
        name: str | None = None,
        label_field: str | None = None,
        limit: int | None = None,
    ) -> None:
        own = dict(self.hub)
        self.path: str = path or own["path"]
        local = self.path.endswith((".jsonl", ".json"))
        if local:
            fields: dict[str, Any] = {"id_field": "id"}
        else:
            fields = {"id_field": None} | {k: own[k] for k in ("problem_field", "answer_field", "answer_after") if k in own}
        super().__init__(
            name or self.title, template, chat, system_prompt, grader, label_field=label_field, limit=limit, duplicates="keep", **fields
        )
        self._rows: ProblemPrompts = (
            JsonlPrompts(Path(self.path)) if local else HubPrompts(self.path, own.get("config"), split or own["split"], revision)
        )

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Each row of the file or data set with its place."""
        return self._rows.rows()


class AIME24(Benchmark):
    """American Invitational Mathematics Examination 2024, 30 problems."""

    title = "aime24"
    hub: ClassVar[dict[str, Any]] = {"path": "HuggingFaceH4/aime_2024", "split": "train"}


class AIME25(Benchmark):
    """American Invitational Mathematics Examination 2025, 30 problems."""

    title = "aime25"
    hub: ClassVar[dict[str, Any]] = {"path": "math-ai/aime25", "split": "test"}


class AMC23(Benchmark):
    """American Mathematics Competitions 2023, 40 problems."""

    title = "amc23"
    hub: ClassVar[dict[str, Any]] = {"path": "math-ai/amc23", "split": "test", "problem_field": "question"}


class MATH500(Benchmark):
    """500 problems of the MATH test set; ``label_field: level`` or ``subject`` splits the report."""

    title = "math500"
    hub: ClassVar[dict[str, Any]] = {"path": "HuggingFaceH4/MATH-500", "split": "test"}


class GSM8K(Benchmark):
    """Grade school word problems: 1,319 in the test split, 7,473 in ``split: train``."""

    title = "gsm8k"
    hub: ClassVar[dict[str, Any]] = {
        "path": "openai/gsm8k",
        "config": "main",
        "split": "test",
        "problem_field": "question",
        "answer_after": "####",
    }
