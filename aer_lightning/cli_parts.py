"""Class names on the command line: short ones for everything that this package has, and users' classes taken by what they have.

jsonargparse takes a class for a protocol only if its annotations are the protocol's, and knows short names of subclasses alone. Here two of
its functions are taken the place of, for our protocols; ``parts.check_part`` says what a class lacks once it is built.
"""

from __future__ import annotations

import difflib
import inspect
from importlib import import_module
from typing import Any

from jsonargparse import _typehints

from aer_lightning.algorithms.controllers import Controller
from aer_lightning.algorithms.difficulty import Weight
from aer_lightning.algorithms.objectives import Objective
from aer_lightning.data.engines.base import Engine
from aer_lightning.data.prompts.base import PromptSource
from aer_lightning.data.rewards.base import Grader
from aer_lightning.parts import members

HOMES: dict[type, str] = {
    Engine: "aer_lightning.data.engines",
    PromptSource: "aer_lightning.data.prompts",
    Grader: "aer_lightning.data.rewards",
    Objective: "aer_lightning.algorithms.objectives",
    Controller: "aer_lightning.algorithms.controllers",
    Weight: "aer_lightning.algorithms.difficulty",
}
_implements, _resolve = _typehints.implements_protocol, _typehints.resolve_class_path_by_name


def install() -> None:
    """Have jsonargparse take parts as said above. Idempotent."""
    _typehints.implements_protocol = implements_protocol
    _typehints.resolve_class_path_by_name = resolve_class_path_by_name


def implements_protocol(value: Any, protocol: Any) -> bool:
    """Whether to try a class or a function for a protocol; ours are checked when it has been built."""
    if protocol not in HOMES:
        return _implements(value, protocol)
    if inspect.isfunction(value):
        return set(members(protocol)) == {"__call__"}
    # The parser asks about the class of what was written, too: a string, or a mapping of class and arguments.
    foreign = ("builtins", "jsonargparse", "typing")
    return inspect.isclass(value) and value.__module__.partition(".")[0] not in foreign and not issubclass(value, type)


def known_classes(kind: Any) -> dict[str, str]:
    """Import path by short name of every class that this package, or a module imported so far, has for a type."""
    found = {path.rpartition(".")[2]: path for path in _typehints.get_all_subclass_paths(kind)}
    if kind in HOMES:
        home = import_module(HOMES[kind])
        listed = getattr(home, "__all__", None) or [n for n, v in vars(home).items() if getattr(v, "__module__", "") == home.__name__]
        for name in listed:
            value = getattr(home, name)
            if inspect.isclass(value) and not getattr(value, "_is_protocol", False) and all(hasattr(value, m) for m in _methods(kind)):
                found[name] = f"{home.__name__}.{name}"
    return found


def _methods(protocol: type) -> list[str]:
    return [name for name, member in members(protocol).items() if inspect.isfunction(member)]


def resolve_class_path_by_name(cls: Any, name: str) -> str:
    """The import path of a class by its short name.

    Raises:
        ValueError: there is none of that name; names a near one, or all.
    """
    path = _resolve(cls, name)
    if "." in path:
        return path
    kinds = cls if isinstance(cls, tuple) else (cls,)
    known: dict[str, str] = {}
    for kind in kinds:
        known |= known_classes(kind)
    if name in known:
        return known[name]
    some = f"there are {', '.join(sorted(known))}" if 0 < len(known) <= 30 else "give its import path"
    if near := difflib.get_close_matches(name, known, n=1):
        some = f"did you mean {near[0]}?"
    raise ValueError(f"no class {name}; {some}")
