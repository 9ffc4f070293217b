"""Which process this is, and what all processes of a run agree on, before any process group exists.

Lightning's own launcher starts further ranks with the environment of the first, which carries what it decided. torchrun, srun and a
hand-started process per node begin every rank by itself: there rank zero's decision goes through the launcher's key-value store.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only

from aer_lightning.errors import ConfigError, UserError

REACH_TIMEOUT = 300.0  # seconds within which rank zero must be there, whenever its launcher started it
READ_TIMEOUT = 30.0  # seconds that rank zero, which holds the answers, stays at its end for ranks that have not read them

_stores: list[Any] = []  # a store that this process serves lives as long as the process


def process_rank() -> int:
    """Rank of this process as its launcher set it; where a process is started by hand on each node, the node's."""
    rank = int(getattr(rank_zero_only, "rank", None) or 0)
    return rank or (int(os.environ.get("NODE_RANK", 0)) if "LOCAL_RANK" not in os.environ else 0)


def cluster() -> ClusterEnvironment | None:
    """The launcher that started every process by itself; None for one process and for those that Lightning starts.

    Raises:
        ConfigError: a SLURM job script asks for its tasks in a way that Lightning does not support.
    """
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        try:
            return SLURMEnvironment()
        except RuntimeError as error:
            raise ConfigError(f"SLURM: {error}") from None
    by_hand = "NODE_RANK" in os.environ and "LOCAL_RANK" not in os.environ and "MASTER_PORT" in os.environ
    return LightningEnvironment() if by_hand else None


def agree(key: str, decide: Callable[[], str], timeout: float = 300.0) -> str:
    """What rank zero decides on, on every process of the run.

    Args:
        key: names the decision.
        decide: called on rank zero only, or where there is no launcher to ask.
        timeout: seconds for rank zero to decide, from when it could be reached.

    Raises:
        UserError: ``decide`` raised it.
        ConfigError: the other ranks: rank zero refused, or did not answer.
    """
    environment, rank = cluster(), process_rank()
    others = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 2))) - 1
    if environment is None or others == 0:
        return decide()
    from torch.distributed import DistNetworkError, DistStoreError, TCPStore

    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = TCPStore(
            environment.main_address,
            environment.main_port,
            is_master=rank == 0 and not served,
            timeout=timedelta(seconds=REACH_TIMEOUT),
            wait_for_workers=False,
            multi_tenant=True,  # the process group's own store, later, is on the same port
        )
        _stores.append(store)
        name, key = key, f"aer_lightning/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{key}"
        if rank != 0:
            deadline = time.monotonic() + timeout
            while not store.check([key]):
                if time.monotonic() > deadline:
                    raise ConfigError(f"rank {rank}: rank 0 gave no answer within {timeout:g} s ({name}); start again, its output says why")
                time.sleep(0.05)  # here and not in ``get``, which no signal interrupts
            answer = json.loads(store.get(key))
            store.add(f"{key}/read", 1)
    except (DistNetworkError, DistStoreError) as error:
        where = f"{environment.main_address}:{environment.main_port}"
        raise ConfigError(f"rank {rank} cannot reach rank 0 at {where} (MASTER_ADDR, MASTER_PORT): {str(error).splitlines()[0]}") from None
    if rank != 0:
        if "error" in answer:
            raise ConfigError(f"rank 0: {answer['error']}")
        return str(answer["value"])
    if not served:  # a run that is refused or complete may be over before the other ranks have started
        atexit.register(_stay, store, f"{key}/read", others)
    try:
        value = decide()
    except UserError as error:
        store.set(key, json.dumps({"error": str(error)}))
        raise
    store.set(key, json.dumps({"value": value}))
    return value


def refuse_together(key: str, check: Callable[[], None], timeout: float = 300.0) -> None:
    """Check what rank zero alone needs to check; what it refuses ends every process, which would wait for it else.

    Args:
        key: names the check.
        check: raises what it refuses; ranks that Lightning starts are there only because rank zero passed it.
        timeout: seconds that it may take.

    Raises:
        UserError: ``check`` raised it.
        ConfigError: the other ranks: rank zero refused, or did not answer.
    """
    if process_rank() != 0 and cluster() is None:
        return

    def decide() -> str:
        check()
        return ""

    agree(key, decide, timeout)


def _stay(store: Any, read: str, others: int) -> None:
    """Wait until the others have read what this process alone holds; they may be behind by as much as their start takes."""
    deadline = time.monotonic() + READ_TIMEOUT
    while store.add(read, 0) < others and time.monotonic() < deadline:
        time.sleep(0.05)
