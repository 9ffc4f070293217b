"""Two torchrun agents on the loopback are two nodes: one run folder, and the samples and losses of one process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def torchrun(per_node, *arguments):
    """Start two agents with ``per_node`` processes each; (status, stderr) of both."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    rendezvous = ["--nnodes=2", f"--nproc-per-node={per_node}", "--master-addr=127.0.0.1", f"--master-port={port}"]
    command = [sys.executable, "-m", "torch.distributed.run", *rendezvous]
    agents = [
        subprocess.Popen(
            [*command, f"--node-rank={node}", "-m", "aer_lightning", *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]
    return [(agent.communicate(timeout=280)[1], agent.returncode)[::-1] for agent in agents]


def read(folder):
    from tests.integration.conftest import read_metrics

    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return read_metrics(folder), {(s["rollout"], s["id"], s["completion"]) for s in samples}


@pytest.mark.slow
@pytest.mark.parametrize(("per_node", "strategy"), [(1, "fsdp2"), (2, "hsdp")])
def test_two_nodes_train_as_one_process(tmp_path, per_node, strategy):
    from aer_lightning.assets import resolve_model
    from tests.integration.conftest import CommandLine, small

    values = {"data.init_args.max_new_tokens": 12, "curves.enabled": "false", "samples.every": 1, "samples.limit": "null"}
    values |= {"initial_validation.enabled": "false", "trainer.limit_val_batches": 0}
    options = [*small(resolve_model("countdown-tiny"), tmp_path / "one"), *(f"--{k}={v}" for k, v in values.items())]
    status, _, err = CommandLine.spawn(None, "fit", "-c", "configs/aer.yaml", *options)
    assert status == 0, err[-3000:]
    options = [o for o in options if not o.startswith("--run_dir")]  # each rank would choose its own
    name = f"nodes-{os.getpid()}-{per_node}"
    several = ["-c", f"configs/strategy/{strategy}.yaml", "--trainer.num_nodes=2", f"--trainer.devices={per_node}"]
    results = torchrun(per_node, "fit", "-c", "configs/aer.yaml", *several, *options, f"--name={name}")
    assert all(status == 0 for status, _ in results), results[0][1][-3000:]
    shutil.move(ROOT / "runs" / name, tmp_path / "nodes")
    folders = list((tmp_path / "nodes").iterdir())
    assert len(folders) == 1, "one run folder for all ranks"
    (one, samples), (nodes, shares) = read(tmp_path / "one"), read(folders[0])
    assert shares < samples, "rank zero's samples are some of the single process's"
    for a, b in zip(one, nodes, strict=True):
        for name in ("train/loss", "rollout/entropy", "rollout/reward"):
            assert b[name] == pytest.approx(a[name], abs=1e-5), name
