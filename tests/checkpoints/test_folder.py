import json
import os

import pytest

from aer_lightning.checkpoints.folder import (
    LAST,
    MANIFEST,
    begin,
    checkpoints,
    commit,
    fingerprint,
    newest,
    prune,
    read_manifest,
    replace_file,
    verify,
    write_file,
)
from aer_lightning.errors import DataError


def write(folder, step, content=b"weights", **facts):
    partial = begin(folder, step)
    return commit(partial, {"data": write_file(partial / "data", content)}, {"step": step, **facts})


def test_a_checkpoint_has_its_name_only_when_it_is_whole(tmp_path):
    partial = begin(tmp_path, 3)
    (partial / "data").write_bytes(b"half")
    assert checkpoints(tmp_path) == [] and newest(tmp_path) is None
    path = write(tmp_path, 3)
    assert path.name == "step-00000003.ckpt" and not partial.exists()
    assert (tmp_path / LAST).resolve() == path and verify(path)["step"] == 3


def edit(path, old, new):
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: os.truncate(p / "data", 3), "data has 3 of 7 bytes"),
        (lambda p: (p / "data").write_bytes(b""), "data has 0 of 7 bytes"),
        (lambda p: (p / "data").write_bytes(b"weighus"), "data was altered"),
        (lambda p: (p / "data").unlink(), "data is missing"),
        (lambda p: (p / MANIFEST).unlink(), "no manifest.json"),
        (lambda p: (p / MANIFEST).write_text(""), "manifest.json is damaged"),
        (lambda p: edit(p / MANIFEST, '"step": 2', '"step": 9'), "manifest.json is damaged"),
        (lambda p: (p / MANIFEST).write_text("[1]"), "manifest.json is damaged"),
    ],
)
def test_damage_is_named_and_the_one_before_is_taken(tmp_path, damage, said):
    first, second = write(tmp_path, 1), write(tmp_path, 2)
    damage(second)
    told = []
    found, manifest = newest(tmp_path, told.append)
    assert found == first and manifest["step"] == 1
    assert len(told) == 1 and str(second) in told[0] and said in told[0] and "\n" not in told[0]
    with pytest.raises(DataError):
        verify(second)


def test_every_flipped_bit_is_seen(tmp_path):
    path = write(tmp_path, 1, content=bytes(range(16)))
    for file in ("data", MANIFEST):
        whole = (path / file).read_bytes()
        for bit in range(0, 8 * len(whole), 1 if file == "data" else 7):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            (path / file).write_bytes(changed)
            try:
                same = verify(path)
            except DataError:
                continue
            finally:
                (path / file).write_bytes(whole)
            assert file == MANIFEST and same == read_manifest(path), "only where JSON means the same"


def test_a_later_format_is_refused(tmp_path):
    path = write(tmp_path, 1)
    from aer_lightning.checkpoints import folder

    manifest = json.loads((path / MANIFEST).read_text()) | {"format": folder.FORMAT + 1}
    manifest["checksum"] = folder._checksum(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="later version"):
        verify(path)


def test_prune_keeps_the_newest_and_drops_what_a_run_that_went_back_left(tmp_path):
    for step in (1, 2, 3, 9):
        write(tmp_path, step)
    begin(tmp_path, 4)
    present = write(tmp_path, 5)
    prune(tmp_path, 2, present)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000005.ckpt", "step-00000003.ckpt"]
    assert {p.name for p in tmp_path.iterdir()} == {"step-00000005.ckpt", "step-00000003.ckpt", LAST}


def test_the_same_step_again_replaces_it(tmp_path):
    write(tmp_path, 1, b"old")
    path = write(tmp_path, 1, b"new")
    assert (path / "data").read_bytes() == b"new" and verify(path) and len(checkpoints(tmp_path)) == 1
    assert fingerprint(path / "data")["size"] == 3


def test_replace_file(tmp_path):
    replace_file(tmp_path / "x", b"one")
    replace_file(tmp_path / "x", b"two")
    assert (tmp_path / "x").read_bytes() == b"two" and len(list(tmp_path.iterdir())) == 1
