"""Writes checkpoints beside the training: a step waits for the copy to host memory, a thread does the rest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from aer_lightning.checkpoints import logs
from aer_lightning.checkpoints.folder import begin, commit, fingerprint, prune, write_file

FAILURES = (Exception, CheckpointException)  # torch's own is no Exception
FILE_BYTES = 256 << 20  # of a rank's file: torch makes a file whole in memory, twice, before it writes it


@dataclass
class Snapshot:
    """The state of a run after one optimizer step.

    Attributes:
        step: optimizer steps done.
        tensors: weights and optimizer states by name; references, or shards of this rank.
        parts: everything else, packed, by the name of its file without ``.pt``; read on rank zero only.
        facts: for the manifest, plain values.
    """

    step: int
    tensors: dict[str, Tensor]
    parts: dict[str, bytes]
    facts: dict[str, Any]


class Saver:
    """Saves snapshots one after the other. Every method is called by all ranks alike.

    Args:
        folder: of the checkpoints, in the run's folder.
        keep: newest checkpoints that stay; older ones are deleted once a new one is whole.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        # A group of its own, because the writing thread's collectives must not mix with those of training.
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() and dist.get_world_size() > 1 else None
        self._rank = dist.get_rank() if self._group is not None else 0
        self._executor: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, Future[Path]] | None = None

    @property
    def busy(self) -> bool:
        """Whether a save has begun whose outcome nobody has asked for."""
        return self._pending is not None

    def begin(self, snapshot: Snapshot) -> None:
        """Copy to host memory and return; the rest happens in the background. The save before has to have been waited for."""
        assert self._pending is None and self._executor is not None
        # One for each save: it would keep its copies for the next one, as long as the weights live.
        stager = DefaultStager(
            StagingOptions(use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False)
        )
        staged: Any = stager.stage(snapshot.tensors)
        stager.close()
        self._pending = snapshot.step, self._executor.submit(self._write, replace(snapshot, tensors=staged))

    def wait(self) -> tuple[int, Path | str] | None:
        """The step that was being saved and its checkpoint, or one line on why there is none; None if nothing was being saved."""
        if self._pending is None:
            return None
        step, future = self._pending
        self._pending = None
        try:
            return step, future.result()
        except FAILURES as error:
            return step, _reason(error)

    def finished(self) -> bool:
        """Whether the save in the background is over on this rank, so that ``wait`` returns at once."""
        return self._pending is not None and self._pending[1].done()

    def close(self) -> None:
        """Wait for the writing thread and end it."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None

    # -- in the writing thread ----------------------------------------------------------------------------------------------------

    def _write(self, snapshot: Snapshot) -> Path:
        partial = self._together(lambda: self._begin(snapshot.step) if self._rank == 0 else None)[0]
        try:
            writer = HuggingFaceStorageWriter(str(partial), fqn_to_index_mapping=files_of(snapshot.tensors), save_distributed=True)
            dcp.save(snapshot.tensors, storage_writer=writer, process_group=self._group, no_dist=self._group is None)
            files = self._together(lambda: self._fingerprints(partial))
            return self._together(lambda: self._commit(partial, snapshot, files) if self._rank == 0 else None)[0]
        except FAILURES:
            if self._rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _begin(self, step: int) -> Path:
        logs.flush_all(self.folder.parent)
        return begin(self.folder, step)

    def _fingerprints(self, partial: Path) -> dict[str, dict[str, Any]]:
        """Of the files that this rank wrote; the writer names them by rank, counted from 1."""
        own = f"shard-{self._rank + 1:05d}-"
        return {path.name: fingerprint(path) for path in partial.iterdir() if path.name.startswith(own)}

    def _commit(self, partial: Path, snapshot: Snapshot, files: list[dict[str, dict[str, Any]]]) -> Path:
        merged = {name: facts for share in files for name, facts in share.items()}
        merged |= {f"{name}.pt": write_file(partial / f"{name}.pt", content) for name, content in snapshot.parts.items()}
        final = commit(partial, merged, snapshot.facts)
        with suppress(OSError):
            prune(self.folder, self.keep, final)
        return final

    def _together(self, part: Callable[[], Any]) -> list[Any]:
        """What ``part`` gave on every rank, or the first rank's error on all of them: nobody goes on alone."""
        value, error = None, None
        try:
            value = part()
        except FAILURES as caught:
            error = caught
        if self._group is None:
            if error is not None:
                raise error
            return [value]
        shares: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(shares, (value, None if error is None else _reason(error)), group=self._group)
        if failed := next((f"rank {rank}: {reason}" for rank, (_, reason) in enumerate(shares) if reason is not None), None):
            raise OSError(failed)
        return [value for value, _ in shares]


def files_of(tensors: dict[str, Tensor], limit: int = FILE_BYTES) -> dict[str, int]:
    """Number of the file, from 1, that each tensor goes to: in order, with at most ``limit`` bytes of this rank in a file or one tensor.

    With several ranks torch's HuggingFaceStorageWriter gives all of them the coordinator's numbers, so that the limit holds for the
    shards of rank zero, and for another rank's as far as they are no larger.

    >>> import torch
    >>> files_of({"a": torch.zeros(3), "b": torch.zeros(2), "c": torch.zeros(9)}, limit=20)
    {'a': 1, 'b': 1, 'c': 2}
    """
    numbers: dict[str, int] = {}
    number, size = 1, 0
    for name, tensor in tensors.items():
        held = getattr(tensor, "_local_tensor", tensor).nbytes
        if size and size + held > limit:
            number, size = number + 1, 0
        numbers[name], size = number, size + held
    return numbers


def _reason(error: BaseException) -> str:
    """One line: what the innermost cause says."""
    if isinstance(error, CheckpointException):
        rank, (cause, _) = next(iter(error.failures.items()))
        return f"rank {rank}: {_reason(cause)}" if dist.is_initialized() else _reason(cause)
    while (cause := error.__cause__ or error.__context__) is not None:  # type: ignore[assignment]
        error = cause
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return " ".join(str(error).split()) or type(error).__name__
