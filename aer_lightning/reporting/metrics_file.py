"""Writing ``metrics.csv``: rows of any columns, appended as they come."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from aer_lightning.reporting.style import write_atomically

FIRST = ("epoch", "step")  # columns that every row has


class MetricsFile:
    """A CSV file whose header grows: a row is appended, and a column not seen before has the file written anew with it.

    All rows are in memory, so a row that a full disk does not take comes with a later one, and a file that vanished is made again.

    Args:
        path: the file; what it held before is replaced at the first row.
        say: is told in one line when the file cannot be written.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self.path, self.say = path, say
        self.rows: list[dict[str, float]] = []
        self._columns: list[str] = []

    def append(self, row: Mapping[str, float]) -> None:
        """Add one row; columns it does not have stay empty."""
        self.rows.append(dict(row))
        if self._columns and row.keys() <= set(self._columns) and self.path.exists():
            self._try(lambda: self._append(self._text([row])))
        else:
            self._try(self._write)

    def replace(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Have these rows in the file and no others."""
        self.rows = [dict(row) for row in rows]
        self._try(self._write)

    def complete(self) -> bool:
        """Write what a full disk had not taken; whether every row is in the file."""
        if self.rows and not self._columns:
            self._try(self._write)
        return bool(self._columns) or not self.rows

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self._columns = []  # the next row has the whole file written
            self.say(f"{self.path} cannot be written ({error.strerror}); its rows wait until it can")

    def _append(self, text: str) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(text)

    def _write(self) -> None:
        names = dict.fromkeys([*FIRST, *(name for row in self.rows for name in row)])
        self._columns = list(names)
        head = io.StringIO()
        csv.writer(head, lineterminator="\n").writerow(self._columns)
        write_atomically(self.path, (head.getvalue() + self._text(self.rows)).encode())

    def _text(self, rows: Iterable[Mapping[str, float]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(
            {name: int(value) if name in FIRST else value for name, value in row.items()} for row in rows
        )
        return text.getvalue()
