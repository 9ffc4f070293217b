"""Bad input: each mistake is one line that names the argument. And which backend "auto" is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aer_lightning.errors import ConfigError, DataError
from aer_lightning.kernels import VocabularyShard, linear_token_stats, logits_token_stats, plan

HIDDEN, WEIGHT, TARGETS = torch.randn(3, 4), torch.randn(500, 4), torch.tensor([0, 1, 499])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.randn(3, 1, 4)}, r"hidden: shape \[3, 1, 4\]"),
        ({"hidden": torch.randn(3, 5)}, r"weight: shape \[500, 4\] does not fit hidden \[3, 5\]"),
        ({"weight": torch.randn(0, 4)}, r"weight: shape \[0, 4\]"),
        ({"hidden": torch.ones(3, 4, dtype=torch.int32)}, "hidden: dtype torch.int32"),
        ({"weight": torch.ones(500, 4, dtype=torch.complex64)}, "weight: dtype torch.complex64"),
        ({"targets": torch.tensor([0, 1])}, r"targets: shape \[2\] does not fit hidden \[3, 4\]"),
        ({"targets": torch.tensor([0.0, 1.0, 2.0])}, "targets: dtype torch.float32"),
        ({"bias": torch.zeros(3)}, r"bias: .*expected a float tensor \[500\]"),
        ({"temperature": 0.0}, "temperature: 0.0 is not above 0"),
        ({"temperature": float("nan")}, "temperature: nan is not above 0"),
        ({"temperature": torch.ones(2)}, r"temperature: .*\[2\].*\[3\]"),
        ({"temperature": torch.ones(3, requires_grad=True)}, "temperature: has requires_grad"),
        ({"backend": "cuda"}, "backend: 'cuda' is not one of auto, reference, torch, triton"),
        ({"backend": "triton"}, "backend: triton needs CUDA tensors"),
        ({"memory_mb": 0}, "memory_mb: 0 is not above 0"),
        ({"memory_mb": 0.0001}, r"memory_mb: 0.0001 MiB is too little for 3 x 4 x 500; give at least 0\.00"),
        ({"softcap": -1.0}, "softcap: -1.0 is not above 0"),
        ({"logit_scale": 0.0}, "logit_scale: 0.0 is not above 0"),
        ({"logprob_only": True, "entropy_only": True}, "entropy_only: contradicts logprob_only"),
        ({"entropy_top_share": 1.5}, r"entropy_top_share: 1.5 is not in \(0, 1\]"),
        ({"entropy_top_p": 0.5, "entropy_top_share": 0.5}, "entropy_top_p: contradicts entropy_top_share"),
        ({"entropy_top_p": 0.5, "logprob_only": True}, "entropy_top_p: there is no entropy with logprob_only"),
        ({"weight_cast": WEIGHT.bfloat16()}, "weight_cast: dtype torch.bfloat16 is not that of hidden, torch.float32"),
        ({"weight_cast": WEIGHT[:3]}, "weight_cast: has another shape"),
        ({"plan": plan(3, 4, 501, torch.float32, 1)}, "plan: is for 3 x 4 x 501"),
        ({"backend": "chunked"}, "chunked is now called torch"),
        ({"backend": "reference", "shard": "any"}, "shard: the reference backend"),
        ({"weight": WEIGHT.to("meta")}, "weight: is on meta, hidden on cpu"),
        ({"targets": TARGETS.to("meta")}, "targets: are on meta"),
    ],
)
def test_linear_mistakes(changes: dict[str, Any], message: str) -> None:
    arguments = {"hidden": HIDDEN, "weight": WEIGHT, "targets": TARGETS} | changes
    with pytest.raises(ConfigError, match=message) as caught:
        linear_token_stats(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("columns", [20, 30_000])
@pytest.mark.parametrize("target", [-1, "V"])
def test_target_out_of_range(backend: Any, columns: int, target: Any) -> None:
    wrong = columns if target == "V" else target
    targets = torch.tensor([0, wrong, 1])
    with pytest.raises(DataError, match=rf"targets: row 1 is {wrong}, outside the vocabulary of {columns}"):
        linear_token_stats(HIDDEN, torch.randn(columns, 4), targets, backend=backend)
    with pytest.raises(DataError, match=rf"targets: row 1 is {wrong}"):
        logits_token_stats(torch.randn(3, columns), targets, backend=backend)
    # ... but not where it is the one that is ignored.
    assert linear_token_stats(HIDDEN, torch.randn(columns, 4), targets, backend=backend, ignore_index=wrong)[0][1] == 0


@pytest.mark.parametrize("columns", [20, 30_000])
def test_temperature_of_a_row(columns: int) -> None:
    with pytest.raises(DataError, match="temperature: row 2 is not above 0"):
        logits_token_stats(torch.randn(3, columns), torch.zeros(3, dtype=torch.long), torch.tensor([1.0, 2.0, -1.0]))


def test_logits_mistakes() -> None:
    with pytest.raises(ConfigError, match=r"logits: shape \[2, 3, 4\]"):
        logits_token_stats(torch.randn(2, 3, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ConfigError, match=r"targets: shape \[3\] does not fit logits \[2, 4\]"):
        logits_token_stats(torch.randn(2, 4), torch.zeros(3, dtype=torch.long))
    shard = VocabularyShard(None, 2, 5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="shard: columns 2 to 6 are not within the vocabulary of 5"):
        logits_token_stats(torch.randn(2, 4), torch.zeros(2, dtype=torch.long), shard=shard)


def test_triton_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aer_lightning.kernels.api.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"backend: triton is not installed; install aer-lightning\[triton\]"):
        linear_token_stats(HIDDEN, WEIGHT, TARGETS, backend="triton")
    assert linear_token_stats(HIDDEN, WEIGHT, TARGETS)[0].shape == (3,)


def test_kernels_do_not_import_triton() -> None:
    import subprocess
    import sys

    code = (
        "import sys, torch; from aer_lightning.kernels import linear_token_stats\n"
        "before = 'triton' in sys.modules\n"
        "linear_token_stats(torch.randn(3, 4), torch.randn(900, 4), torch.zeros(3, dtype=torch.long))\n"
        "print([name for name in sys.modules if name.startswith('aer_lightning.kernels.triton')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_torch_is_all_that_is_needed() -> None:
    """What `from aer_lightning.kernels import ...`, a forward and a backward pass load beside torch is this package alone."""
    import subprocess
    import sys

    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "from aer_lightning.kernels import linear_token_stats\n"
        "for columns in (40, 900):\n"
        "    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(columns, 4, requires_grad=True)\n"
        "    logprob, entropy = linear_token_stats(hidden, weight, torch.zeros(3, dtype=torch.long))\n"
        "    (logprob.sum() + entropy.sum()).backward()\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(sorted(new - {'torch', 'triton'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "['aer_lightning']"


def test_dtensor_is_refused(tmp_path: Any) -> None:
    import torch.distributed as dist
    from torch.distributed.tensor import distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        weight = distribute_tensor(WEIGHT, init_device_mesh("cpu", (1,)))
        with pytest.raises(ConfigError, match="weight: is a DTensor; gather it first"):
            linear_token_stats(HIDDEN, weight, TARGETS)
        assert linear_token_stats(HIDDEN, weight.full_tensor(), TARGETS)[0].shape == (3,)
    finally:
        dist.destroy_process_group()
