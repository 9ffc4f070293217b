import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from aer_lightning.checkpoints import saver as module
from aer_lightning.checkpoints.folder import checkpoints, verify
from aer_lightning.checkpoints.restore import read_tensors
from aer_lightning.checkpoints.saver import Saver, Snapshot


def snapshot(step, tensor):
    return Snapshot(
        step, {"model.w": tensor, "optimizer.0.w.step": torch.tensor(float(step))}, {"state": b"s", "names": b"n"}, {"step": step}
    )


@pytest.fixture
def saver(tmp_path):
    saver = Saver(tmp_path / "checkpoints", 2)
    yield saver
    saver.close()


def test_training_goes_on_while_the_copy_is_written(saver, monkeypatch):
    import threading

    gate, write = threading.Event(), Saver._write
    monkeypatch.setattr(Saver, "_write", lambda self, *args: (gate.wait(30), write(self, *args))[1])
    weight = torch.ones(4)
    saver.begin(snapshot(1, weight))
    assert saver.busy and not saver.finished()
    weight.zero_()  # the next step
    gate.set()
    step, path = saver.wait()
    assert step == 1 and not saver.busy and saver.wait() is None
    read = read_tensors(path, ["model.", "optimizer."])
    assert torch.equal(read["model.w"], torch.ones(4)) and read["optimizer.0.w.step"] == 1
    assert verify(path)["step"] == 1 and (path / "state.pt").read_bytes() == b"s"


def test_large_states_go_to_several_files_and_leave_no_copy_behind(saver, monkeypatch):
    import weakref

    monkeypatch.setattr(module, "files_of", lambda tensors, real=module.files_of: real(tensors, limit=16))
    held, write = [], Saver._write
    monkeypatch.setattr(Saver, "_write", lambda self, shot: (held.extend(map(weakref.ref, shot.tensors.values())), write(self, shot))[1])
    saver.begin(snapshot(1, torch.arange(4.0)))
    _, path = saver.wait()
    assert len(list(path.glob("*.safetensors"))) == 2 and verify(path)["step"] == 1
    assert torch.equal(read_tensors(path, ["model."])["model.w"], torch.arange(4.0))
    saver._executor.submit(int).result()
    assert held and not any(ref() is not None for ref in held)


def test_only_the_newest_stay(saver):
    for step in range(1, 5):
        saver.begin(snapshot(step, torch.ones(4)))
        assert saver.wait()[0] == step
    assert [p.name for p in checkpoints(saver.folder)] == ["step-00000004.ckpt", "step-00000003.ckpt"]


def full(*args, **kwargs):
    raise OSError(28, os.strerror(28))


@pytest.mark.parametrize("place", ["rows", "data", "state"])
def test_a_full_disk_is_one_line_and_leaves_the_older_one(saver, monkeypatch, place):
    saver.begin(snapshot(1, torch.ones(4)))
    _, path = saver.wait()

    with monkeypatch.context() as patch:
        if place == "rows":
            patch.setattr(module.logs, "flush_all", full)
        elif place == "data":
            patch.setattr("torch.distributed.checkpoint.filesystem.FileSystem.create_stream", full)
        else:
            patch.setattr(module, "write_file", full)
        saver.begin(snapshot(2, torch.ones(4)))
        assert saver.wait() == (2, "No space left on device")
    assert [p.name for p in saver.folder.iterdir() if p.is_dir() and not p.is_symlink()] == [path.name] and verify(path)
    saver.begin(snapshot(3, torch.ones(4)))
    assert saver.wait()[1].name == "step-00000003.ckpt", "the next save is tried again"


def _rank(rank, folder, queue):
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    saver = Saver(folder / "checkpoints", 2)
    if rank == 0:
        module.logs.flush_all = full
    saver.begin(snapshot(1, torch.ones(4)))
    queue.put(saver.wait())
    saver.close()
    dist.destroy_process_group()


def test_rows_that_one_rank_cannot_flush_fail_the_save_on_all(tmp_path):
    queue = mp.get_context("spawn").SimpleQueue()
    mp.spawn(_rank, (tmp_path, queue), nprocs=2)
    assert [queue.get(), queue.get()] == [(1, "rank 0: No space left on device")] * 2
    assert checkpoints(tmp_path / "checkpoints") == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    saver = Saver(tmp_path / "file" / "checkpoints", 1)
    saver.begin(snapshot(1, torch.ones(4)))
    step, said = saver.wait()
    saver.close()
    assert step == 1 and "Not a directory" in said and "\n" not in said


def test_a_vanished_folder_is_made_again(saver):
    import shutil

    saver.begin(snapshot(1, torch.ones(4)))
    saver.wait()
    shutil.rmtree(saver.folder)
    saver.begin(snapshot(2, torch.ones(4)))
    assert verify(saver.wait()[1])
