"""The files that a run appends to, cut back to a checkpoint when the run goes on from it in the same folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aer_lightning.checkpoints.folder import PARTIAL, flush

APPENDED = ("samples.jsonl", "evaluation.jsonl")
EVENTS = "events.out.tfevents.*"


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each appended file, as far as they are there."""
    found = {}
    for name in APPENDED:
        with suppress(FileNotFoundError):
            found[name] = (folder / name).stat().st_size
    return found


def flush_all(folder: Path) -> None:
    """Have the disk hold what the appended files hold, so that none is shorter than a checkpoint says."""
    for name in APPENDED:
        with suppress(FileNotFoundError):
            flush(folder / name)


def cut_back(folder: Path, kept: Mapping[str, int]) -> list[str]:
    """Shorten each appended file to what it had at the checkpoint; one that was not there yet goes.

    Returns:
        One line for each file that is shorter than it was, so that rows are missing.
    """
    problems = []
    for name in APPENDED:
        path, size = folder / name, kept.get(name, 0)
        if not path.exists():
            if size:
                problems.append(f"{path} is gone; what it held up to the checkpoint is lost")
            continue
        if (present := path.stat().st_size) < size:
            problems.append(f"{path} has {present:,} bytes and had {size:,} at the checkpoint; rows are missing")
        elif size == 0:
            path.unlink()
        elif present > size:
            os.truncate(path, size)
    return problems


def cut_back_events(folder: Path, step: int, row: Sequence[str], row_step: int, current: Sequence[str] = ()) -> bool:
    """Rewrite TensorBoard's files without what was logged after a checkpoint.

    Args:
        folder: of the run.
        step: optimizer steps done at the checkpoint.
        row: names of the last finished rollout's figures, which were logged before the checkpoint, or would have been right after it.
        row_step: step that they were logged at: ``step - 1``, or less inside a rollout.
        current: names of files that are being written now and stay.

    Returns:
        Whether the figures named by ``row`` are there.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    wanted = set(row)
    there: set[str] = set()
    seen: set[str] = set()
    for path in sorted(folder.glob(EVENTS)):
        if path.name in current:
            continue
        beside = path.with_name(f".{path.name}{PARTIAL}")
        kept = 0
        with beside.open("wb") as file:
            writer = RecordWriter(file)
            for raw in RawEventFileLoader(str(path)).Load():
                event = event_pb2.Event.FromString(raw)
                tags = {value.tag for value in event.summary.value}
                if event.HasField("summary") and event.step >= step - 1:
                    # The evaluation of the initial policy stands at step 0 too, before the figures of the first step.
                    initial = step == 1 and event.step == 0 and not tags & seen
                    seen |= tags
                    if event.step > step - 1 or not (tags <= wanted or initial):
                        continue
                if event.step == row_step:
                    there |= tags & wanted
                kept += event.HasField("summary")
                writer.write(raw)
            writer.flush()
        if kept:
            beside.replace(path)
        else:
            beside.unlink()
            path.unlink()
    return bool(wanted - {"epoch"}) and wanted - {"epoch"} <= there


def start_over(folder: Path) -> None:
    """Remove what a run left that never came to a checkpoint."""
    cut_back(folder, {})
    for path in folder.glob(EVENTS):
        path.unlink()


def plain_row(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Logged figures as plain numbers, those of evaluations left out."""
    return {name: float(value) for name, value in metrics.items() if not name.startswith(("val/", "test/"))}
