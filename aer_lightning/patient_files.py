"""Files that only grow, on a disk that may be full for a while: what it does not take waits, and nothing is half written."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aer_lightning.errors import SaveError

NO_ROOM = "the disk did not take the last rows; make room, then go on with --resume auto"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class PatientFile:
    """Appends to a file, all that waits or nothing; from any thread, as TensorBoard's writer has one of its own.

    Args:
        path: of the file.
        say: is told once, in one line, when the disk begins not to take anything.

    Attributes:
        waiting: bytes that are not in the file yet.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path, self.say = path, say
        self.waiting = b""
        self.closed = False
        self._said = False
        self._lock = threading.Lock()

    def write(self, content: bytes) -> None:
        """Have more to write at the next ``flush``."""
        with self._lock:
            self.waiting += content

    def flush(self) -> bool:
        """Write what waits; whether nothing waits any more."""
        with self._lock:
            return self._flush()

    def _flush(self) -> bool:
        if not self.waiting:
            return True
        before = self.path.stat().st_size if self.path.exists() else None
        try:
            with self.path.open("ab") as file:
                file.write(self.waiting)
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.path, before) if before is not None else self.path.unlink(missing_ok=True)
            if not self._said:
                self.say(f"{self.path} cannot be written ({error.strerror}); what belongs there waits until it can")
            self._said = True
            return False
        self.waiting, self._said = b"", False
        return True

    def close(self) -> None:
        """Flush for the last time."""
        self.flush()
        self.closed = True


def disk_error(error: BaseException) -> SaveError | None:
    """What to say of an exception that comes of a disk that is full or cannot be written; None for any other.

    >>> str(disk_error(OSError(errno.ENOSPC, "No space left on device", "runs/a/summary.json")))
    'runs/a/summary.json: No space left on device; make room, then go on with --resume auto'
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            where = f"{seen.filename}: " if seen.filename else ""
            return SaveError(f"{where}{seen.strerror}; make room, then go on with --resume auto")
        if any(os.strerror(number) in str(seen) for number in FULL):  # safetensors has exceptions of its own
            return SaveError(f"{' '.join(str(seen).split())}; make room, then go on with --resume auto")
        seen = seen.__cause__ or seen.__context__
    return None
