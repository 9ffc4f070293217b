"""The table of docs/precision.md: each cell equals one process within its bound, or is refused in one line."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from aer_lightning.errors import ConfigError
from aer_lightning.modules.sharding import check_strategy
from aer_lightning.modules.strategies import FSDP2Strategy

SCRIPT = Path(__file__).parent / "cell.py"
# Largest difference of loss, H_k and gradient norm from one process in the same precision; two rounded runs differ by rounding.
BOUNDS = {"32-true": 1e-5, "bf16-mixed": 2e-2}


def cell(model, folder, strategy, precision):
    launch = [] if strategy == "auto" else ["-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"]
    launch += ["--rdzv_endpoint=localhost:0"] if launch else []
    command = [sys.executable, *launch, str(SCRIPT), str(model), strategy, precision, str(folder / f"{strategy}-{precision}")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines() if "RESULT " in line).split("RESULT ", 1)[1])


@pytest.mark.slow
@pytest.mark.parametrize("precision", BOUNDS)
def test_cells_that_run(random_model, tmp_path, precision):
    one = cell(random_model, tmp_path, "auto", precision)
    assert one["same"] and one["resumed"] == one["fit"][1:], "a resumed run is the uninterrupted one, bit for bit"
    for strategy in ("ddp", "fsdp2"):
        other = cell(random_model, tmp_path, strategy, precision)
        bound = BOUNDS[precision]
        assert other["same"] and other["resumed"] == other["fit"][1:], strategy
        for a, b in zip(one["fit"], other["fit"], strict=True):
            assert b == pytest.approx(a, rel=bound, abs=bound), strategy
        assert other["exported"] == pytest.approx(one["exported"], rel=bound)
        if precision == "32-true":
            assert other["validate"] == one["validate"]


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_cells_that_are_refused(precision):
    with pytest.raises(ConfigError, match=r"^trainer\.precision: [^\n]*-mixed$"):
        check_strategy(SimpleNamespace(precision=precision, strategy=None))


def test_fp16_is_refused_where_it_cannot_hold(cli, small, random_model, tmp_path):
    with pytest.raises(ConfigError, match=r"^trainer\.precision: [^\n]*bf16-mixed"):
        check_strategy(SimpleNamespace(precision="16-mixed", strategy=FSDP2Strategy()))
    if not torch.cuda.is_available():
        message = cli.refused("fit", "-c", "configs/aer.yaml", *small(random_model, tmp_path / "r"), "--trainer.precision=16-mixed")
        assert message.startswith("trainer.precision: ") and "bf16-mixed" in message
