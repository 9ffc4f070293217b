"""Temporary folders and files of a run, and their removal when whoever made them was killed."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

PREFIX = "aer-lightning"
BOOT = Path("/proc/sys/kernel/random/boot_id")
OWNED = re.compile(PREFIX + r"-(\d+)-(\d+)-(\d+)-\w+")
HALF_WRITTEN = re.compile(r"\..+\.(part|partial)")
IN_PASSING = f".{PREFIX}-"  # folders by which is tried whether one can write


def own_folder() -> Path:
    """A new folder in the system's temporary folder, whose name says which process made it."""
    sweep_folders()
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{_namespace()}-{os.getpid()}-{_started(os.getpid())}-"))


def sweep_folders() -> None:
    """Remove the temporary folders of processes of this machine that are gone."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*"):
        if (found := OWNED.fullmatch(path.name)) is None:
            continue
        namespace, pid, started = map(int, found.groups())
        with suppress(OSError):
            if namespace == _namespace() and path.stat().st_uid == os.getuid() and _started(pid) != started:
                shutil.rmtree(path, ignore_errors=True)


def sweep_run(folder: Path) -> None:
    """Remove what was being written in a run's folder, or in its folder of checkpoints, when the run was killed."""
    for place in (folder, folder / "checkpoints"):
        with suppress(OSError):
            for path in [p for p in place.iterdir() if HALF_WRITTEN.fullmatch(p.name) or p.name.startswith(IN_PASSING)]:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _namespace() -> int:
    """Number of the space in which process ids are unique: machines and containers may share a temporary folder.

    The first namespace has the same number on every Linux machine, so the machine's start is in it. One number for both, as sockets in
    the folder may have paths of 107 bytes at most.
    """
    boot, namespace = b"", 0
    with suppress(OSError):
        boot = BOOT.read_bytes()
    with suppress(OSError):
        namespace = os.stat("/proc/self/ns/pid").st_ino
    return zlib.crc32(boot + str(namespace).encode())


def _started(pid: int) -> int:
    """When a process was started, in ticks since the machine was; 0 if it is gone, 1 where only that it lives is known."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return 0 if state in "ZX" else int(rest[18])
    except OSError:
        if os.path.isdir("/proc/self"):
            return 0
    try:
        os.kill(pid, 0)
    except PermissionError:
        return 1
    except OSError:
        return 0
    return 1
