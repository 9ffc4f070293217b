"""Makes one line of what the command-line parser says about bad input."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from aer_lightning.errors import ConfigError, UserError

# Lines that say how the parser looked at a value and not what is wrong with it.
NOISE = (
    "Does not validate against any of the Union subtypes",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value",
    "Given: ",
    "Subclass types expect one of",
    "a class path (str)",
    "a dict ",
    "Expected a path but",
)
# What took the place of options that there were once.
RETIRED = {
    "micro_batch_size": "a forward and backward pass is bounded by data.init_args.tokens_per_micro_batch tokens",
}
KEY = re.compile(r"""(?:Parser key|Key|key) ["']([\w.\[\]]+)["']:?\s*""")
CLASS = re.compile(r"Problem with given class_path '([\w.]+)':?")
UNKNOWN = re.compile(r"Option '([\w.]+)' is not accepted|unrecognized arguments: --([\w.]+)|Group '([\w.]+)' does not accept")


def condense(message: str, options: Iterable[str] = ()) -> str:
    """One line of a parser's message: the option, dotted, then what is wrong with it; a near miss is named.

    Args:
        message: several lines, as jsonargparse writes them.
        options: dotted names that exist, for suggestions.
    """
    keys: list[str] = []
    said: list[str] = []
    for raw in message.splitlines():
        line = raw.strip().lstrip("- ").strip()
        if found := CLASS.search(line):
            keys.append("init_args")
            line = CLASS.sub("", line)
        if found := KEY.search(line):
            keys += [k for k in [found.group(1)] if not keys or keys[-1] != k]
            line = KEY.sub("", line)
        if line and not line.startswith(NOISE) and line not in said:
            said.append(line)
    where = ".".join(keys)
    if any(line.startswith("Expected a <class") for line in said):  # for lr the parser also looks for a class of tensors named so
        said = [line for line in said if not line.startswith("no class ")]
    text = "; ".join(said) or " ".join(message.split())
    if unknown := UNKNOWN.search(text):
        name = next(group for group in unknown.groups() if group)
        full = f"{where}.{name}" if where and not unknown.group(2) else name
        if instead := RETIRED.get(full.rsplit(".")[-1]):
            return f"{full if '.' in full else 'data.init_args.' + full}: no longer an option; {instead}"
        names = list(options)
        near = difflib.get_close_matches(full, names, n=1) or difflib.get_close_matches(full, [n.rsplit(".")[-1] for n in names], n=1)
        near = [next((n for n in names if n == near[0] or n.endswith("." + near[0])), near[0])] if near else []
        return f"{full}: no such option" + (f"; did you mean {near[0]}?" if near else "; --print_config shows those there are")
    return f"{where}: {text}" if where else text


class OneLineParser(LightningArgumentParser):
    """A parser that raises ``ConfigError`` with one line instead of printing its usage."""

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Parse; ``null`` for an option inside of a list item, which jsonargparse hands on as the text ``None``, stays null."""
        if isinstance(args, list) and len(args) == 1 and str(args[0]).endswith("=None"):
            args = [f"{str(args[0])[:-4]}null"]
        return super().parse_args(args, *rest, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        """Raise what was wrong; a ``UserError`` on the way is already one line."""
        raise find_user_error(ex) or ConfigError(condense(message, self._known_options())) from ex

    def _known_options(self) -> list[str]:
        names = [action.dest for action in self._actions]
        for key in ("model", "data"):
            names += [f"{key}.init_args.{name}" for name in _init_args(key)]
        return names


def _init_args(key: str) -> list[str]:
    import inspect

    from aer_lightning.data.datamodule import RolloutDataModule
    from aer_lightning.modules.policy import PolicyModule

    return list(inspect.signature({"model": PolicyModule, "data": RolloutDataModule}[key]).parameters)


def find_user_error(error: BaseException | None) -> UserError | None:
    """The first ``UserError`` among an exception and its causes: class constructors raise them inside the parser's own."""
    seen: set[int] = set()
    pending: list[Any] = [error]
    while pending:
        current = pending.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, UserError):
            return current
        pending += [current.__cause__, current.__context__]
    return None
