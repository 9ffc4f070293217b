"""The configuration of one run as one mapping: files merged, single options changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from aer_lightning.errors import ConfigError, DataError

Config = dict[str, Any]


def read_yaml(path: Path | str) -> Config:
    """A mapping from a file.

    Raises:
        DataError: the file is missing, not YAML, or no mapping.
    """
    import yaml

    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); the study runs in the root of the repository") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(config, dict):
        raise DataError(f"{path}: holds no mapping of options")
    return config


def merge(first: Config, second: Mapping[str, Any]) -> Config:
    """``second`` over ``first``, as the command line does it: mappings by key, lists as a whole, no options of a class that is replaced."""
    merged = deepcopy(first)
    if "class_path" in second and second["class_path"] != merged.get("class_path"):
        merged.pop("init_args", None)
    for key, value in second.items():
        mine = merged.get(key)
        merged[key] = merge(mine, value) if isinstance(mine, dict) and isinstance(value, Mapping) else deepcopy(value)
    return merged


def callback_names(config: Config) -> list[str]:
    """Class names in ``trainer.callbacks``."""
    return [str(c["class_path"]).rpartition(".")[2] for c in config.get("trainer", {}).get("callbacks") or []]


def change(config: Config, changes: Mapping[str, Any], *, skip_missing: bool = False) -> Config:
    """A copy with single options set.

    Args:
        config: the configuration.
        changes: value by dotted option (``data.init_args.temperature``), or by ``Callback.option`` for an option of a callback in
            ``trainer.callbacks``.
        skip_missing: leave out options of callbacks that are not there.

    Raises:
        ConfigError: a callback that is not there.
    """
    config = deepcopy(config)
    for key, value in changes.items():
        first, *rest = key.split(".")
        if first[:1].isupper():
            names = callback_names(config)
            if first not in names:
                if skip_missing:
                    continue
                raise ConfigError(f"{key}: there is no {first} in trainer.callbacks ({', '.join(names) or 'empty'})")
            place = config["trainer"]["callbacks"][names.index(first)].setdefault("init_args", {})
            (last,) = rest
        else:
            place, last = _parent(config, [first, *rest]), [first, *rest][-1]
        place[last] = deepcopy(value)
    return config


def _parent(config: Config, path: Sequence[str]) -> Config:
    for part in path[:-1]:
        config = config.setdefault(part, {})
    return config


def look_up(config: Config, key: str, default: Any = None) -> Any:
    """The value at a dotted option."""
    place: Any = config
    for part in key.split("."):
        if not isinstance(place, dict) or part not in place:
            return default
        place = place[part]
    return place
