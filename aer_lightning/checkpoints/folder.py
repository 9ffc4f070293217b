"""A checkpoint on disk: a folder that appears under its name only when everything in it has been written and flushed.

``<run>/checkpoints/step-00000012.ckpt/`` holds ``*.safetensors`` (weights and optimizer, one file or more per rank), ``state.pt`` (all
else, plain values), ``names.pt`` (optimizers' options by weight), and ``manifest.json`` with the size and SHA-256 of each file and of
itself. Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from aer_lightning.errors import DataError

FORMAT = 1
FOLDER = "checkpoints"
MANIFEST = "manifest.json"
STATE = "state.pt"
NAMES = "names.pt"
LAST = "last.ckpt"
PARTIAL = ".partial"
NAME = re.compile(r"step-(\d+)\.ckpt")


def name_of(step: int) -> str:
    """Folder name of the checkpoint after ``step`` optimizer steps; names sort as steps do.

    >>> name_of(12)
    'step-00000012.ckpt'
    """
    return f"step-{step:08d}.ckpt"


def fingerprint(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or to a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> dict[str, Any]:
    """Write and flush one file; its fingerprint."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that is either the old or the new one, whatever happens."""
    beside = path.with_name(f".{path.name}{PARTIAL}")
    try:
        write_file(beside, content)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    flush(path.parent)


def begin(folder: Path, step: int) -> Path:
    """An empty folder under a temporary name, beside the place of the checkpoint after ``step`` optimizer steps."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name_of(step)}{PARTIAL}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    return partial


def commit(partial: Path, files: dict[str, dict[str, Any]], facts: dict[str, Any]) -> Path:
    """Write the manifest and give the folder its name.

    Args:
        partial: what ``begin`` gave, with all files written and flushed.
        files: fingerprint by name.
        facts: of the checkpoint, plain values.

    Returns:
        The checkpoint's folder.
    """
    manifest = {"format": FORMAT, **facts, "files": dict(sorted(files.items()))}
    manifest["checksum"] = _checksum(manifest)
    write_file(partial / MANIFEST, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    flush(partial)
    final = partial.with_name(partial.name.removeprefix(".").removesuffix(PARTIAL))
    aside = partial.with_name(f".{final.name}.replaced{PARTIAL}")
    shutil.rmtree(aside, ignore_errors=True)
    if final.exists():  # the same step once more, after going back to an earlier checkpoint
        final.rename(aside)
    partial.rename(final)
    flush(final.parent)
    _point(final.parent / LAST, final.name)
    shutil.rmtree(aside, ignore_errors=True)
    return final


def _point(link: Path, target: str) -> None:
    """Have ``last.ckpt`` name the newest checkpoint, where the file system knows links."""
    beside = link.with_name(f".{link.name}{PARTIAL}")
    with contextlib.suppress(OSError):
        beside.unlink(missing_ok=True)
        beside.symlink_to(target)
        beside.replace(link)


def _checksum(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        DataError: it is missing or altered, or of a later version of this package.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        whole = isinstance(manifest, dict) and manifest["checksum"] == _checksum(manifest) and isinstance(manifest["files"], dict)
    except FileNotFoundError:
        raise DataError(f"{path}: has no {MANIFEST}, so it is no whole checkpoint of this package") from None
    except OSError as error:
        raise DataError(f"{path}: {MANIFEST} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError):
        whole = False
    if not whole:
        raise DataError(f"{path}: {MANIFEST} is damaged; use an older checkpoint")
    if manifest["format"] > FORMAT:
        raise DataError(f"{path}: was written by a later version (format {manifest['format']}, this one reads {FORMAT})")
    return manifest


def verify(path: Path) -> dict[str, Any]:
    """Check every byte of a checkpoint against its manifest.

    Returns:
        The manifest.

    Raises:
        DataError: names the first file that is missing, cut short or altered.
    """
    manifest = read_manifest(path)
    for name, expected in manifest["files"].items():
        file = path / name
        try:
            size = file.stat().st_size
            if size != expected["size"]:
                raise DataError(f"{path}: {name} has {size:,} of {expected['size']:,} bytes; use an older checkpoint")
            if fingerprint(file)["sha256"] != expected["sha256"]:
                raise DataError(f"{path}: {name} was altered after it was written (checksum differs); use an older checkpoint")
        except FileNotFoundError:
            raise DataError(f"{path}: {name} is missing; use an older checkpoint") from None
        except OSError as error:
            raise DataError(f"{path}: {name} cannot be read ({error.strerror}); use an older checkpoint") from None
    return manifest


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder by their names, newest first. What is under a temporary name is none."""
    try:
        found = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
    except OSError:
        return []
    return sorted(found, key=lambda path: int(NAME.fullmatch(path.name)[1]), reverse=True)  # type: ignore[index]


def newest(folder: Path, say: Callable[[str], None] = lambda _: None) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a folder and its manifest, None if there is none.

    Args:
        folder: of checkpoints.
        say: is told of each one that is passed over, in one line.
    """
    for path in checkpoints(folder):
        try:
            manifest = verify(path)
            if name_of(manifest["step"]) == path.name:
                return path, manifest
            raise DataError(f"{path}: holds step {manifest['step']}, so it was put here under another name; rename or remove it")
        except DataError as error:
            say(str(error))
    return None


def prune(folder: Path, keep: int, present: Path) -> None:
    """Delete all but the newest ``keep`` checkpoints up to ``present``, those after it, and what was never finished.

    A checkpoint with a later step than the one just written belongs to a run that went another way.
    """
    ordered = checkpoints(folder)
    place = ordered.index(present) if present in ordered else 0
    leftovers: Iterable[Path] = (path for path in folder.iterdir() if path.name.startswith(".step-") and path.name.endswith(PARTIAL))
    for path in [*ordered[:place], *ordered[place + keep :], *leftovers]:
        # Its manifest first: what is half deleted is no checkpoint any more.
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
