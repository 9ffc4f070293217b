"""Where prompts come from: the protocol, and the one type a source yields. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from aer_lightning.data.rewards.base import Grader


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem.

    Attributes:
        id: unique and stable name of the problem, part of every sample's seed.
        text: what the model reads (a plain string), or
        messages: chat messages (``[{"role", "content"}]``) for the tokenizer's chat template; exactly one of both is set.
        answer: the gold answer as the source's grader takes it (JSON-like).
        label: group for reporting, such as the difficulty or the benchmark; "" for none.
    """

    id: str
    text: str | None
    answer: Any
    messages: list[dict[str, str]] | None = None
    label: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """The prompt as one text: ``text``, or the contents of all messages."""
        return self.text or "\n".join(message["content"] for message in self.messages or ())


@runtime_checkable
class PromptSource(Protocol):
    """An addressable sequence of prompts with the grader that judges their completions.

    ``source[i]`` depends on the source's own options and on ``i`` alone, never on what was read before, so that a cursor
    (one integer) is the whole state of reading. A source is cheap to construct: files are opened in ``load``.

    Attributes:
        name: short name used in metrics (``val/<name>/pass@1``).
        grader: judges completions of these prompts.
        labels: every label that occurs, in the order of reporting.

    A stratified source may have a further attribute ``period``: prompts whose indices have the same remainder by it are alike, and
    shuffling keeps every prompt among its like.
    """

    @property
    def name(self) -> str:
        """See the class; a plain attribute will do, as for the next two."""
        ...

    @property
    def grader(self) -> Grader:
        """See the class."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """See the class."""
        ...

    def load(self) -> None:
        """Read what has to be read and check it; raises DataError naming file and line. Idempotent."""
        ...

    def __len__(self) -> int:
        """Number of distinct prompts; ``sys.maxsize`` for a generator without an end."""
        ...

    def __getitem__(self, index: int) -> Prompt:
        """The prompt at ``index`` (0 <= index < len)."""
        ...
