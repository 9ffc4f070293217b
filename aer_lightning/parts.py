"""Parts that users write: accepted by the members they have, whatever they are derived from and however they are annotated."""

from __future__ import annotations

import inspect
from typing import Any

from aer_lightning.errors import ConfigError

SPECIAL = ("__call__", "__len__", "__getitem__")


def check_part(value: Any, protocol: type, option: str) -> None:
    """Refuse an object that lacks a member of a protocol, or has a method that cannot be called as it will be.

    Args:
        value: an instance, or a function where the protocol is that of a function.
        protocol: a ``typing.Protocol`` whose members have docstrings.
        option: dotted name for the message.

    Raises:
        ConfigError: names the class, the member, and what it should be.
    """
    kind = value.__name__ if inspect.isroutine(value) else type(value).__name__
    for name, member in members(protocol).items():
        if not callable(member):
            if inspect.getattr_static(value, name, None) is None and not hasattr(value, name):
                raise ConfigError(f"{option}: {kind} has no attribute {name}{_meaning(member, protocol, name)}; {_needs(protocol)}")
            continue
        call = value if name == "__call__" and callable(value) else getattr(value, name, None)
        if not callable(call):
            raise ConfigError(f"{option}: {kind} has no method {_shown(name, member)}{_meaning(member)}; {_needs(protocol)}")
        if (problem := _refuses(call, member)) is not None:
            raise ConfigError(f"{option}: {kind}.{name} cannot be called as {_shown(name, member)}: {problem}")


def members(protocol: type) -> dict[str, Any]:
    """Public members of a protocol, own and inherited: functions for methods, properties for attributes.

    Attributes that are only annotated are left out: they may come later in an object's life.
    """
    found: dict[str, Any] = {}
    for base in reversed([c for c in protocol.__mro__ if getattr(c, "_is_protocol", False)]):
        found |= {name: value for name, value in vars(base).items() if not name.startswith("_") or name in SPECIAL}
    return found


def _refuses(call: Any, method: Any) -> str | None:
    """Why a callable does not take the arguments of a protocol's method, None if it does."""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):  # of some built-in functions
        return None
    # What the protocol has a default for need not be taken.
    needed = [p for p in list(inspect.signature(method).parameters.values())[1:] if p.default is p.empty]
    try:
        signature.bind(*(None for p in needed if p.kind != p.KEYWORD_ONLY), **{p.name: None for p in needed if p.kind == p.KEYWORD_ONLY})
    except TypeError as error:
        return str(error)
    return None


def _shown(name: str, method: Any) -> str:
    parameters = list(inspect.signature(method).parameters.values())[1:]
    text = str(inspect.Signature([p.replace(annotation=p.empty) for p in parameters]))
    return f"{name}{text}"


def _meaning(member: Any, protocol: type | None = None, name: str = "") -> str:
    text = (getattr(member, "__doc__", None) or "").strip().partition("\n")[0]
    if protocol is not None:  # attributes are described by their protocol, to the end of the sentence
        described = " ".join((protocol.__doc__ or "").partition(f"{name}: ")[2].split())
        text = described.partition(". ")[0].partition("; ")[0]
    return f" ({text.rstrip('.')})" if text else ""


def _needs(protocol: type) -> str:
    names = [name if name != "__call__" else "being callable" for name in members(protocol)]
    return f"{'an' if protocol.__name__[0] in 'AEIOU' else 'a'} {protocol.__name__} needs {', '.join(names)}"
