"""Problems from a local file, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aer_lightning.data.prompts.problems import Duplicates, ProblemPrompts, Subset
from aer_lightning.errors import DataError

if TYPE_CHECKING:
    from aer_lightning.data.rewards.base import Grader


LONGEST_LINE = 16 << 20  # bytes


class JsonlPrompts(ProblemPrompts):
    """Problems from a JSONL file with lines ``{"id", "problem", "answer", "source"}``; ``source`` and further fields are optional.

    Lines are UTF-8; blank ones are skipped. Every error names the file and the line.

    Args:
        path: the file.
        template: text of the prompt, with ``{problem}`` once in it.
        chat: hand the text to the tokenizer's chat template, as the user's message, instead of reading it as it is.
        system_prompt: system message before it; needs ``chat``.
        grader: judges completions; ``MathGrader`` by default, of the box alone where the template or the system prompt asks for one.
        name: name in metrics; the file's name without its ending by default.
        id_field: field with a problem's unique name; null numbers the lines.
        problem_field: field with its text.
        answer_field: field with its gold answer, a string or a number.
        answer_after: read the gold answer after the last occurrence of this mark, as ``"####"`` for GSM8K.
        label_field: field whose value groups problems in reports; null for one group.
        subset: ``train`` and ``validation`` are disjoint parts of the file, by a hash of the normalised text; ``all`` is both.
        validation_fraction: share of problems in the validation part.
        limit: keep the first so many problems.
        duplicates: what to do with a problem whose normalised text came before: ``keep`` and report it, ``drop`` it, or ``error``.

    Raises:
        ConfigError: an option is out of range or options contradict each other.
    """

    option = "prompts.path"

    def __init__(
        self,
        path: str | Path,
        template: str = "{problem}",
        chat: bool = False,
        system_prompt: str | None = None,
        grader: Grader | None = None,
        name: str | None = None,
        id_field: str | None = "id",
        problem_field: str = "problem",
        answer_field: str = "answer",
        answer_after: str | None = None,
        label_field: str | None = None,
        subset: Subset = "all",
        validation_fraction: float = 0.05,
        limit: int | None = None,
        duplicates: Duplicates = "keep",
    ) -> None:
        self.path = Path(path)
        super().__init__(
            name or self.path.stem,
            template,
            chat,
            system_prompt,
            grader,
            id_field,
            problem_field,
            answer_field,
            answer_after,
            label_field,
            subset,
            validation_fraction,
            limit,
            duplicates,
        )

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each line as (``"FILE line N"``, its object)."""
        try:
            if self.path.exists() and not self.path.is_file():  # a folder; or a pipe or a device, which may have no end
                raise DataError(f"{self.option}: {self.path} is no regular file; give a JSONL file")
            file = self.path.open("rb")
        except OSError as error:
            raise DataError(f"{self.option}: cannot read {self.path}: {error.strerror}") from error
        with file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
                place = f"{self.path} line {number}"
                if len(line) > LONGEST_LINE:
                    raise DataError(f"{self.option}: {place} is longer than {LONGEST_LINE >> 20} MiB; is it one JSON object a line?")
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip()
                    if not text:
                        continue
                    row = json.loads(text)
                except UnicodeDecodeError as error:
                    raise DataError(f"{self.option}: {place} is not UTF-8: {error.reason}") from error
                except json.JSONDecodeError as error:
                    raise DataError(f"{self.option}: {place} is not JSON: {error.msg} at column {error.colno}") from error
                except (RecursionError, ValueError) as error:  # ValueError: a number too long for int()
                    raise DataError(f"{self.option}: {place} is not usable JSON: nested too deeply, or a number too long") from error
                if not isinstance(row, dict):
                    raise DataError(f"{self.option}: {place} is not a JSON object but {type(row).__name__}")
                yield place, row
