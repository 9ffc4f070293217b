"""What file and hub sources share: rows of problem and gold answer, turned into prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, cast

from aer_lightning.data.prompts.base import Prompt
from aer_lightning.data.prompts.overlap import OverlapReport, check_overlap, normalise_problem
from aer_lightning.errors import ConfigError, DataError

if TYPE_CHECKING:
    from aer_lightning.data.rewards.base import Grader

log = logging.getLogger(__name__)

Subset = Literal["all", "train", "validation"]
Duplicates = Literal["keep", "drop", "error"]


class ProblemPrompts:
    """A finite source of problems with gold answers; subclasses say where the rows come from, in ``rows``.

    Args:
        name: name in metrics and in ids that are made up.
        template: text of the prompt, with ``{problem}`` once in it.
        chat: hand the text to the tokenizer's chat template, as the user's message, instead of reading it as it is.
        system_prompt: system message before it; needs ``chat``.
        grader: judges completions; ``MathGrader`` by default, of the box alone where the template or the system prompt asks for one.
        id_field: field with a problem's unique name; null numbers the rows, ``<name>/<number>``.
        problem_field: field with its text.
        answer_field: field with its gold answer, a string or a number.
        answer_after: read the gold answer after the last occurrence of this mark, as ``"####"`` for GSM8K.
        label_field: field whose value groups problems in reports; null for one group.
        subset: ``train`` and ``validation`` are disjoint parts of the rows, by a hash of the normalised text, so that copies of
            a problem stay on one side; ``all`` takes every row.
        validation_fraction: share of problems in the validation part.
        limit: keep the first so many problems.
        duplicates: what to do with a problem whose normalised text came before: ``keep`` and report it, ``drop`` it, or ``error``.

    Raises:
        ConfigError: an option is out of range or options contradict each other.
    """

    option = "prompts"  # what error messages call the place of the rows

    def __init__(
        self,
        name: str,
        template: str = "{problem}",
        chat: bool = False,
        system_prompt: str | None = None,
        grader: Grader | None = None,
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
        if template.count("{problem}") != 1:
            raise ConfigError(f"prompts.template: must hold {{problem}} exactly once, not {template!r}")
        if system_prompt is not None and not chat:
            raise ConfigError("prompts.system_prompt: needs prompts.chat: true; a plain prompt has its instructions in prompts.template")
        if subset not in ("all", "train", "validation"):
            raise ConfigError(f'prompts.subset: must be "all", "train" or "validation", not {subset!r}')
        if not 0 < validation_fraction < 1:
            raise ConfigError(f"prompts.validation_fraction: must lie between 0 and 1, not {validation_fraction}")
        if limit is not None and limit < 1:
            raise ConfigError(f"prompts.limit: must be >= 1, or null for all, not {limit}")
        if duplicates not in ("keep", "drop", "error"):
            raise ConfigError(f'prompts.duplicates: must be "keep", "drop" or "error", not {duplicates!r}')
        if answer_after == "":
            raise ConfigError("prompts.answer_after: must not be empty; null reads the whole field")
        self.name = name
        self.template = template
        self.chat = chat
        self.system_prompt = system_prompt
        self.id_field = id_field
        self.problem_field = problem_field
        self.answer_field = answer_field
        self.answer_after = answer_after
        self.label_field = label_field
        self.subset = subset
        self.validation_fraction = validation_fraction
        self.limit = limit
        self.duplicates = duplicates
        self._grader = grader
        self._prompts: list[Prompt] | None = None
        self._report = OverlapReport(0)

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Each row with the words that name its place in an error message, such as ``"FILE line 17"``."""
        raise NotImplementedError

    @property
    def grader(self) -> Grader:
        """The grader handed in, or a ``MathGrader``, which reads the box alone where the template asks for one."""
        if self._grader is None:
            from aer_lightning.data.rewards.math import MathGrader

            asked = f"{self.template} {self.system_prompt or ''}"
            self._grader = cast("Grader", MathGrader("boxed" if "\\boxed" in asked else "auto"))
        return self._grader

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order in which they first occur; none without ``label_field``. Loads otherwise."""
        if self.label_field is None:
            return ()
        return tuple(dict.fromkeys(prompt.label for prompt in self._loaded()))

    @property
    def report(self) -> OverlapReport:
        """Duplicates among the rows of this subset, dropped ones included. Loads."""
        self._loaded()
        return self._report

    def load(self) -> None:
        """Read all rows and check them. Idempotent.

        Raises:
            DataError: a row is malformed, an id comes twice, or there is no problem; names the place.
        """
        if self._prompts is not None:
            return
        prompts: list[Prompt] = []
        places: dict[str, str] = {}
        texts: dict[str, str] = {}  # normalised text -> place of its first occurrence
        seen: list[tuple[str, str, str]] = []
        for number, (place, row) in enumerate(self.rows()):
            prompt = self._prompt(place, row, number)
            if prompt.id in places:
                raise DataError(f"{self.option}: {place} has the id {prompt.id!r} of {places[prompt.id]}; ids must be unique")
            places[prompt.id] = place
            text = normalise_problem(prompt.extra["problem"])
            if not self._mine(text):
                continue
            seen.append((prompt.id, prompt.extra["problem"], prompt.answer))
            first = texts.setdefault(text, place)
            if first != place and self.duplicates == "error":
                raise DataError(f"{self.option}: {place} has the problem of {first}; remove it, or set prompts.duplicates to keep or drop")
            if first == place or self.duplicates == "keep":
                prompts.append(prompt)
            if len(prompts) == self.limit:
                break
        if not prompts:
            where = getattr(self, "path", self.name)
            raise DataError(f"{self.option}: no problem in {where}" + ("" if self.subset == "all" else f", subset {self.subset}"))
        self._prompts = prompts
        self._report = check_overlap(seen)
        for line in self._report.lines():
            log.warning("%s: %s (prompts.duplicates: %s)", self.name, line, self.duplicates)

    def check_overlap(self, evaluations: Mapping[str, ProblemPrompts]) -> OverlapReport:
        """Duplicates in this source and the problems that it shares with each of ``evaluations``. Loads all of them."""
        train = [(p.id, p.extra["problem"], p.answer) for p in self._loaded()]
        return check_overlap(train, {name: [(p.id, p.extra["problem"]) for p in source._loaded()] for name, source in evaluations.items()})

    def __len__(self) -> int:
        """Number of problems. Loads."""
        return len(self._loaded())

    def __getitem__(self, index: int) -> Prompt:
        """The prompt at ``index``. Loads."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not in [0, {len(self)})")
        return self._loaded()[index]

    def _loaded(self) -> list[Prompt]:
        self.load()
        assert self._prompts is not None
        return self._prompts

    def _mine(self, normalised: str) -> bool:
        if self.subset == "all":
            return True
        digest = blake2b(normalised.encode("utf-8", "surrogatepass"), digest_size=8, person=b"problems").digest()
        return (int.from_bytes(digest, "big") < self.validation_fraction * 2**64) == (self.subset == "validation")

    def _prompt(self, place: str, row: Mapping[str, Any], number: int) -> Prompt:
        problem = self._field(place, row, self.problem_field)
        answer = self._field(place, row, self.answer_field)
        if self.answer_after is not None:
            _, mark, answer = answer.rpartition(self.answer_after)
            if not mark or not answer.strip():
                raise DataError(f'{self.option}: {place} has no answer after "{self.answer_after}" in "{self.answer_field}"')
            answer = answer.strip()
        text = self.template.replace("{problem}", problem)
        messages = None
        if self.chat:
            messages = [{"role": "system", "content": self.system_prompt}] if self.system_prompt is not None else []
            messages.append({"role": "user", "content": text})
        extra = {"problem": problem}
        if isinstance(row.get("source"), str):
            extra["source"] = row["source"]
        return Prompt(
            id=f"{self.name}/{number}" if self.id_field is None else self._field(place, row, self.id_field),
            text=None if self.chat else text,
            answer=answer,
            messages=messages,
            label="" if self.label_field is None else self._field(place, row, self.label_field),
            extra=extra,
        )

    def _field(self, place: str, row: Mapping[str, Any], field: str) -> str:
        """A field as text; numbers are written out."""
        value = row.get(field)
        if value is None:
            hint = f"; it has {', '.join(map(str, list(row)[:8]))}" if field not in row else ""
            raise DataError(f'{self.option}: {place} has no field "{field}"{hint}')
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(f'{self.option}: {place}: field "{field}" must be text or a number, not {type(value).__name__}')
        if isinstance(value, str) and not value.strip():
            raise DataError(f'{self.option}: {place}: field "{field}" is empty')
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                half = ascii(value[error.start])
                raise DataError(f'{self.option}: {place}: field "{field}" has half a character ({half}); remove it') from None
        return str(value)
