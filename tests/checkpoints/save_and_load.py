"""Run on any number of ranks: reads a checkpoint (if one is named) into a model, or trains it, and saves it again.

``python save_and_load.py OUT STEP [IN]``, or under torchrun, which shards the model.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from aer_lightning.checkpoints import restore
from aer_lightning.checkpoints.saver import Saver, Snapshot
from aer_lightning.checkpoints.state import heavy_state, packed


def main(out, step, start=None):
    sharded = dist.is_torchelastic_launched()
    if sharded:
        dist.init_process_group("gloo")
    torch.manual_seed(0 if start is None else 1)
    model = torch.nn.Sequential(torch.nn.Embedding(11, 6), torch.nn.Linear(6, 6), torch.nn.Linear(6, 11))
    model[2].weight = model[0].weight  # tied
    if sharded:
        fully_shard(model[1])
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    path = Path(start) if start else None
    if path is None:
        for _ in range(3):
            model(torch.arange(8)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    elif sharded:
        restore._load_shards(path, model, [optimizer], restore.read_state(path)["optimizers"])
    else:
        trainer = SimpleNamespace(strategy=None, state=SimpleNamespace(fn="fit"), lightning_module=model)
        checkpoint = restore.load(path, trainer)
        model.load_state_dict(checkpoint["state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    tensors, names = heavy_state(model, [optimizer])
    saver = Saver(Path(out), 10)
    saver.begin(Snapshot(int(step), tensors, {"state": packed({}), "names": packed(names)}, {"step": int(step)}))
    saved = saver.wait()[1]
    assert isinstance(saved, Path), saved
    saver.close()
    if sharded:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
