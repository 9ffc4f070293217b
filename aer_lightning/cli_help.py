"""``--data.init_args.engine.help``: which classes an option takes and what they can be told, without building anything."""

from __future__ import annotations

import inspect
import re
from typing import Any

from jsonargparse._parameter_resolvers import get_signature_parameters
from jsonargparse._typehints import get_class_types

from aer_lightning.cli_parts import known_classes
from aer_lightning.errors import ConfigError

HELP = re.compile(r"--([A-Za-z_][\w.]*)\.help(?:=([\w.]+))?$")


def find_help(argv: list[str], roots: dict[str, type]) -> str | None:
    """The text that a command line with ``--OPTION.help`` or ``--OPTION.help=CLASS`` asks for; None for any other command line.

    Args:
        argv: the command line.
        roots: class by the first part of an option's name, ``trainer``, ``model``, ``data`` and the callbacks' keys.

    Raises:
        ConfigError: there is no such option, or it takes no class.
    """
    for place, argument in enumerate(argv):
        found = HELP.match(argument)
        if found is None:
            continue
        option, chosen = found.groups()
        following = argv[place + 1] if place + 1 < len(argv) else ""
        if chosen is None and following and not following.startswith("-"):
            chosen = following
        if option in roots and chosen is None:
            return describe(roots[option])
        kinds = types_of(option, roots)
        known = {name: path for kind in kinds for name, path in known_classes(kind).items()}
        if not known:
            raise ConfigError(f"{option}: takes no class; python -m aer_lightning {argv[0]} --help describes it")
        if chosen is None:
            return choices(option, known)
        return describe(load(option, chosen, known))
    return None


def types_of(option: str, roots: dict[str, type]) -> tuple[Any, ...]:
    """The classes that an option's annotation names, lists and unions looked into."""
    first, *rest = [part for part in option.split(".") if part != "init_args" and not part.isdecimal()]
    if first not in roots:
        raise ConfigError(f"{first}: no such option; there are {', '.join(roots)}")
    kind: Any = roots[first]
    kinds: tuple[Any, ...] = (kind,)
    for part in rest:
        parameters = {p.name: p.annotation for k in kinds for p in get_signature_parameters(k)}
        known = {name: path for k in kinds for name, path in known_classes(k).items()}
        if part not in parameters and part in known:
            kinds = (load(option, part, known),)
            continue
        if part not in parameters:
            raise ConfigError(f"{option}: {kinds[0].__name__} has no option {part}; it has {', '.join(parameters)}")
        kinds = get_class_types(parameters[part])
    return kinds


def load(option: str, name: str, known: dict[str, str]) -> Any:
    """The class of a short name or an import path."""
    from importlib import import_module

    module, _, attribute = known.get(name, name).rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        raise ConfigError(f"{option}: no class {name}; there are {', '.join(sorted(known))}") from None


def choices(option: str, known: dict[str, str]) -> str:
    """A line for each class."""
    width = max(map(len, known))
    lines = [f"{option} takes one of", ""]
    for name, path in sorted(known.items()):
        lines.append(f"  {name:<{width}}  {summary(load(option, path, known))}")
    return "\n".join([*lines, "", f"--{option}.help=NAME says what it can be told; a class of yours is given by its import path"])


def summary(kind: Any) -> str:
    """First line of a docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def describe(kind: Any) -> str:
    """A class: its docstring's first part, and each option with type, default and meaning."""
    document = inspect.getdoc(kind) or ""
    lines = [f"{kind.__module__}.{kind.__qualname__}", "", document.partition("\nArgs:")[0].strip(), "", "options:"]
    parameters = get_signature_parameters(kind)
    for p in parameters:
        default = "required" if p.default is inspect.Parameter.empty else f"default {p.default!r}"
        lines += [f"  {p.name} ({type_text(p.annotation)}; {default})", *([f"      {' '.join(p.doc.split())}"] if p.doc else [])]
    return "\n".join(lines if parameters else [*lines[:-2], "", "It has no options."])


def type_text(annotation: Any) -> str:
    """An annotation without the modules of its names.

    Example:
        >>> type_text(int | None), type_text(Any)
        ('int | None', 'Any')
    """
    text = annotation.__name__ if inspect.isclass(annotation) and "[" not in str(annotation) else str(annotation)
    return re.sub(r"\b(?:\w+\.)+", "", text)
