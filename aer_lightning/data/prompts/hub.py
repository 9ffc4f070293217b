"""Problems from a data set on the Hugging Face hub, or a local folder that ``datasets`` can read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aer_lightning.data.prompts.problems import Duplicates, ProblemPrompts, Subset
from aer_lightning.errors import ConfigError, DataError

if TYPE_CHECKING:
    from aer_lightning.data.rewards.base import Grader


class HubPrompts(ProblemPrompts):
    """Problems from a data set of the hub, downloaded as a whole and read from its cache (never streamed).

    Args:
        path: name of the data set, such as ``openai/gsm8k``, or a local folder.
        config: configuration of the data set, such as ``main``; null for its only one.
        split: split of the data set.
        revision: branch, tag or commit; set it for results that can be repeated.
        template: text of the prompt, with ``{problem}`` once in it.
        chat: hand the text to the tokenizer's chat template, as the user's message, instead of reading it as it is.
        system_prompt: system message before it; needs ``chat``.
        grader: judges completions; ``MathGrader`` by default, of the box alone where the template or the system prompt asks for one.
        name: name in metrics; the last part of ``path`` by default.
        id_field: column with a problem's unique name; null numbers the rows, ``<name>/<number>``.
        problem_field: column with its text.
        answer_field: column with its gold answer, a string or a number.
        answer_after: read the gold answer after the last occurrence of this mark, as ``"####"`` for GSM8K.
        label_field: column whose value groups problems in reports; null for one group.
        subset: ``train`` and ``validation`` are disjoint parts of the split, by a hash of the normalised text; ``all`` is both.
        validation_fraction: share of problems in the validation part.
        limit: keep the first so many problems.
        duplicates: what to do with a problem whose normalised text came before: ``keep`` and report it, ``drop`` it, or ``error``.

    Raises:
        ConfigError: an option is out of range, options contradict each other, or (on loading) ``datasets`` is not installed.
    """

    option = "prompts.path"

    def __init__(
        self,
        path: str,
        config: str | None = None,
        split: str = "train",
        revision: str | None = None,
        template: str = "{problem}",
        chat: bool = False,
        system_prompt: str | None = None,
        grader: Grader | None = None,
        name: str | None = None,
        id_field: str | None = None,
        problem_field: str = "problem",
        answer_field: str = "answer",
        answer_after: str | None = None,
        label_field: str | None = None,
        subset: Subset = "all",
        validation_fraction: float = 0.05,
        limit: int | None = None,
        duplicates: Duplicates = "keep",
    ) -> None:
        self.path = path
        self.config = config
        self.split = split
        self.revision = revision
        super().__init__(
            name or path.rstrip("/").rpartition("/")[2],
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
        """Each row of the split as (``"NAME [SPLIT] row N"``, its columns), N from 0."""
        try:
            import datasets
        except ImportError as error:
            raise ConfigError('prompts: HubPrompts needs datasets; install it with: pip install "aer-lightning[hub]"') from error
        try:
            data = datasets.load_dataset(self.path, name=self.config, split=self.split, revision=self.revision, streaming=False)
        except Exception as error:  # datasets raises a dozen unrelated types for a wrong name, split, file or connection
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"{self.option}: cannot load {self.path} [{self.split}]: {reason}") from error
        for number, row in enumerate(data):
            yield f"{self.path} [{self.split}] row {number}", row
