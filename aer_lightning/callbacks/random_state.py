"""Random-number state in the checkpoint, which Lightning leaves out."""

from __future__ import annotations

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from aer_lightning.distributed import gather_objects


class RandomState(pl.Callback):
    """Saves the Python, NumPy, torch and CUDA generators of every rank and restores them when training resumes.

    All as plain numbers and tensors, so that the checkpoint loads with ``weights_only=True``. Sampling does not need them (its seeds
    follow from what is sampled); dropout, random losses and users' own callbacks do.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Generators of every rank. Collective when there are several."""
        return {"ranks": gather_objects(capture())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts, because set-up draws random numbers too."""
        self._pending = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore this rank's generators; a checkpoint from another number of ranks restores none."""
        if self._pending is not None and len(self._pending["ranks"]) == trainer.world_size:
            restore(self._pending["ranks"][trainer.global_rank])
        self._pending = None


def capture() -> dict[str, Any]:
    """The state of every generator as plain values."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(state: dict[str, Any]) -> None:
    """The inverse of ``capture``."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
