"""Reads a configuration file, or says in one line what keeps it from being one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aer_lightning.errors import ConfigError

LIMIT = 1 << 20  # bytes; the longest configuration here has 8,000


def read_config(path: Path) -> dict[str, Any] | None:
    """The options of a YAML file, interpolations as they are written; None where there is no file, which the parser reports.

    Raises:
        ConfigError: names the file: it cannot be read, is no text, no YAML, empty, no mapping, or has a key twice.
    """
    import yaml

    text = _text(path)
    if text is None:
        return None
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        config = yaml.safe_load(text)
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"config: {path} is no text (it has a control character, {error.reason})") from None
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise ConfigError(f"config: {path}{line} is not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"config: {path} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"config: {path} is nested too deeply") from None
    if tree is None:
        raise ConfigError(f"config: {path} is empty; write options into it, or leave it out")
    if not isinstance(config, dict):
        raise ConfigError(f"config: {path} holds no options but a {type(config).__name__}; write KEY: VALUE lines")
    _refuse_repeated_keys(path, tree)
    return config


def _text(path: Path) -> str | None:
    try:
        if not path.exists():
            return None
        if not path.is_file():  # a folder; or a device or a pipe, which may have no end
            raise ConfigError(f"config: {path} is no regular file; give a YAML file")
        if (size := path.stat().st_size) > LIMIT:
            raise ConfigError(f"config: {path} has {size:,} bytes; a configuration has at most {LIMIT:,}")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"config: {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"config: {path} cannot be read: {error.strerror}") from None


def _refuse_repeated_keys(path: Path, tree: Any) -> None:
    """YAML lets the second of two equal keys win in silence."""
    import yaml

    pending, seen = [tree], set()
    while pending:
        node = pending.pop()
        if id(node) in seen:  # an anchor's node stands in several places
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            pending.append(value)
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ConfigError(f"config: {path} has {key.value!r} twice, in lines {lines[key.value]} and {line}; keep one")
            lines[key.value] = line
