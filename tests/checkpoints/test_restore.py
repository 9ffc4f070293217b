import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aer_lightning.checkpoints.folder import verify
from aer_lightning.checkpoints.restore import check_path, is_checkpoint_folder, read_state, read_tensors
from aer_lightning.errors import DataError

from .save_and_load import main

ROOT = Path(__file__).parents[2]


def run(ranks, *arguments):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launch, str(Path(__file__).with_name("save_and_load.py")), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def environment():
    import os

    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_one_rank_four_ranks(tmp_path):
    """Weights (tied ones too) and optimizer pass from shards to a plain model and back, bit for bit."""
    run(2, tmp_path, 1)
    run(1, tmp_path, 2, tmp_path / "step-00000001.ckpt")
    run(4, tmp_path, 3, tmp_path / "step-00000002.ckpt")
    read = [read_tensors(tmp_path / f"step-0000000{n}.ckpt", ["model.", "optimizer."]) for n in (1, 2, 3)]
    files = [len(list((tmp_path / f"step-0000000{n}.ckpt").glob("shard-*.safetensors"))) for n in (1, 2, 3)]
    assert files == [2, 1, 4], "each rank writes its own"
    assert len(read[0]) == 4 + 3 * 4 and read[0]["optimizer.0.0.weight.exp_avg"].abs().max() > 0
    for other in read[1:]:
        assert other.keys() == read[0].keys() and all(torch.equal(other[k], read[0][k]) for k in other)
    first, last = (read_state(tmp_path / f"step-0000000{n}.ckpt") for n in (1, 3))
    assert first["optimizers"] == last["optimizers"] and first["aliases"] == last["aliases"] != {}


def test_what_a_path_may_be(tmp_path):
    run_folder = tmp_path / "run"
    main(run_folder / "checkpoints", 1)
    path = run_folder / "checkpoints" / "last.ckpt"
    check_path(path)
    assert is_checkpoint_folder(path) and verify(path)
    text = tmp_path / "text.ckpt"
    text.write_text("no checkpoint")
    plain = tmp_path / "plain.ckpt"
    torch.save({"state_dict": {}}, plain)
    check_path(plain)
    strange = tmp_path / "strange.ckpt"
    torch.save({"weights": 1}, strange)
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(plain.read_bytes()[:200])
    for bad, said in [
        (tmp_path / "none.ckpt", "no file"),
        ("best", "no file best"),
        (run_folder, "did you mean"),
        (tmp_path, "is a folder and no checkpoint"),
        (text, "no checkpoint, or it is cut short"),
        (cut, "no checkpoint, or it is cut short"),
        (strange, "no state_dict"),
    ]:
        with pytest.raises(DataError, match=r"^ckpt_path: ") as error:
            check_path(bad)
        assert said in str(error.value) and "\n" not in str(error.value)
    shard = next(path.glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match="altered"):
        check_path(path)


def test_a_damaged_state_is_one_line(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"state\.pt is damaged"):
        read_state(tmp_path)
