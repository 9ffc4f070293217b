"""`/dev/full` is a disk without room: whatever is written there is refused as it is by a full one."""

import errno
import os
import threading
from pathlib import Path

import pytest

from aer_lightning.errors import SaveError
from aer_lightning.patient_files import PatientFile, disk_error

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


@needs_full
def test_what_a_full_disk_does_not_take_comes_later_and_once(tmp_path):
    said = []
    file = PatientFile(FULL, said.append)
    for row in (b"one\n", b"two\n"):
        file.write(row)
        assert not file.flush()
    assert said == [f"/dev/full cannot be written ({os.strerror(errno.ENOSPC)}); what belongs there waits until it can"]
    file.path = tmp_path / "rows"
    file.write(b"three\n")
    assert file.flush() and file.flush() and file.waiting == b""
    assert file.path.read_bytes() == b"one\ntwo\nthree\n"


def written_by(write, patch):
    """Have ``write(file, content)`` stand for the writing of every file that is opened by its path."""
    opened = Path.open

    class Opened:
        def __init__(self, inner):
            self.inner = inner

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.inner.close()

        def write(self, content):
            write(self.inner, content)

    patch.setattr(Path, "open", lambda self, *a, **k: Opened(opened(self, *a, **k)))


def test_half_a_row_is_taken_back(tmp_path, monkeypatch):
    file = PatientFile(tmp_path / "rows", lambda _: None)
    file.write(b"one\n")
    file.flush()

    def half(inner, content):
        inner.write(content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        written_by(half, patch)
        file.write(b"two\n")
        assert not file.flush()
    assert file.path.read_bytes() == b"one\n"
    file.close()
    assert file.path.read_bytes() == b"one\ntwo\n"


def test_two_threads_write_every_row_once(tmp_path, monkeypatch):
    """While one writes, the other comes with a row more and flushes too."""
    file = PatientFile(tmp_path / "rows", lambda _: None)
    other = threading.Thread(target=lambda: (file.write(b"two\n"), file.flush()))

    def slow(inner, content):
        inner.write(content)
        if not other.ident:
            other.start()
            other.join(0.3)

    written_by(slow, monkeypatch)
    file.write(b"one\n")
    assert file.flush()
    other.join()
    monkeypatch.undo()
    assert file.path.read_bytes() == b"one\ntwo\n" and not file.waiting


@needs_full
def test_rows_of_a_run_wait_in_its_checkpoint(runs, tmp_path, monkeypatch):
    """The disk is full during the second rollout: the run goes on, and one that goes on from there writes every row."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    from aer_lightning.callbacks import FixedCoefficient
    from aer_lightning.callbacks.history import MetricsHistory
    from aer_lightning.callbacks.samples import SampleLog
    from aer_lightning.reporting import metrics_file

    def parts():
        return [FixedCoefficient(0.1), MetricsHistory(), SampleLog(every=1, limit=None)]

    whole = tmp_path / "whole"
    runs.fit(parts(), max_epochs=2, default_root_dir=str(whole))

    run = tmp_path / "run"
    keep = ModelCheckpoint(dirpath=tmp_path / "c", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    stack = parts()
    write = metrics_file.write_atomically

    class Full(type(stack[0])):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            full = trainer.global_step >= 1
            if stack[2]._rows_file is not None:
                stack[2]._rows_file.path = FULL if full else run / "samples.jsonl"
            patch = (lambda *_: (_ for _ in ()).throw(OSError(28, os.strerror(28)))) if full else write
            monkeypatch.setattr(metrics_file, "write_atomically", patch)
            monkeypatch.setattr(metrics_file.MetricsFile, "_append", patch)

    stack[0] = Full(0.1)
    with pytest.raises(SaveError, match=r"metrics\.csv: the disk did not take the last rows.*--resume auto"), pytest.warns(UserWarning):
        runs.fit([*stack, keep], max_epochs=2, default_root_dir=str(run))
    monkeypatch.undo()
    runs.fit(parts(), max_epochs=2, default_root_dir=str(run), ckpt_path=tmp_path / "c" / "step=2.ckpt")
    assert (run / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()
    rows, expected = ((folder / "metrics.csv").read_text().splitlines() for folder in (run, whole))
    assert len(rows) == len(expected) == 5


def test_one_line_for_a_full_disk_and_none_for_other_errors():
    inner = OSError(errno.EDQUOT, "Disk quota exceeded", "runs/a/model")
    outer = RuntimeError("while saving")
    outer.__cause__ = inner
    assert str(disk_error(outer)) == "runs/a/model: Disk quota exceeded; make room, then go on with --resume auto"
    wrapped = ValueError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "No space left on device" in str(disk_error(wrapped))
    assert disk_error(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None and disk_error(ValueError("x")) is None


@needs_full
def test_events_wait_too(tmp_path):
    from aer_lightning.event_log import EventLog
    from tests.checkpoints.test_logs import events

    logger = EventLog(tmp_path, name="", version="")
    logger.log_metrics({"a": 1.0}, step=0)
    logger.save()
    file = logger.experiment._get_file_writer().event_writer._async_writer._writer._writer
    place, file.path = file.path, FULL
    with pytest.warns(UserWarning, match="cannot be written"):
        logger.log_metrics({"a": 2.0}, step=1)
        logger.save()
    file.path = place
    logger.log_metrics({"a": 3.0}, step=2)
    logger.finalize("success")
    assert events(tmp_path) == [(0, "a"), (1, "a"), (2, "a")]
