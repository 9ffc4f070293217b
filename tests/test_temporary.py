import os
import subprocess
import sys
import tempfile

from aer_lightning import temporary
from aer_lightning.temporary import own_folder, sweep_folders, sweep_run


def test_folders_of_processes_that_are_gone_are_removed_and_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        f"import tempfile, os; tempfile.tempdir = {str(tmp_path)!r}; from aer_lightning.temporary import own_folder; print(own_folder()); "
    )
    gone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    with subprocess.Popen(
        [sys.executable, "-c", code + "input()"], stdin=-1, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as other:
        alive = other.stdout.readline().strip()
        (tmp_path / "aer-lightning-notes").mkdir()
        own = own_folder()
        assert not os.path.exists(gone) and os.path.isdir(alive)
        other.communicate("\n")
    sweep_folders()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["aer-lightning-notes", own.name])


def test_folders_that_another_machine_may_still_use_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(temporary, "_started", lambda pid: 7)
    monkeypatch.setattr(temporary, "BOOT", tmp_path / "boot_id")
    made = []
    for boot in ("one", "two", None):
        temporary.BOOT.write_text(boot) if boot else temporary.BOOT.unlink()
        made.append(own_folder())
    monkeypatch.setattr(temporary, "_started", lambda pid: 0)  # gone, as far as this machine knows
    temporary.BOOT.write_text("one")
    sweep_folders()
    assert [path.is_dir() for path in made] == [False, True, True]


def test_what_was_being_written_in_a_run_is_removed(tmp_path):
    (tmp_path / "checkpoints" / ".step-00000003.ckpt.partial").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000002.ckpt").mkdir()
    (tmp_path / ".aer-lightning-x").mkdir()
    for name in (".metrics.csv.part", "metrics.csv", ".hidden", "checkpoints/.complete.json.partial"):
        (tmp_path / name).write_text("")
    sweep_run(tmp_path)
    sweep_run(tmp_path / "is not there")
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")} == {
        "metrics.csv",
        ".hidden",
        "checkpoints",
        "checkpoints/step-00000002.ckpt",
    }
