"""Two ranks whose completions have very unequal lengths train a few steps; each writes what it counted, and the weights' sum, to its file.

Run by torchrun with the model's folder, the strategy, ``each_pack`` or ``last_pack``, and the folder of the files.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import ClassVar

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from aer_lightning.data.datamodule import RolloutDataModule
from aer_lightning.data.engines import TransformersEngine
from aer_lightning.data.engines.base import Completion
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.modules.policy import PolicyModule
from aer_lightning.modules.strategies import named_strategy


class Unequal(TransformersEngine):
    """Cuts completions to 1 token, but for those of every sixth prompt."""

    def generate(self, requests, sampling):
        out = super().generate(requests, sampling)
        return [
            c if sum(r.prompt_ids) % 6 == 0 else Completion(c.token_ids[:1], c.logprobs[:1], "length")
            for r, c in zip(requests, out, strict=True)
        ]


def main(model, strategy, reduce_gradients, folder):
    counts = Counter()
    for name in ("all_reduce", "all_gather_object", "all_to_all_single", "all_gather_into_tensor", "reduce_scatter_tensor", "broadcast"):
        real = getattr(dist, name)
        setattr(dist, name, lambda *a, real=real, name=name, **k: (counts.update([name]), real(*a, **k))[1])
    torch.set_num_threads(1)
    pl.seed_everything(3, verbose=False)
    data = RolloutDataModule(
        prompts=CountdownPrompts(split="train", numbers=(2, 3)),
        engine=Unequal(),
        prompts_per_rollout=5,
        responses_per_prompt=3,
        tokens_per_micro_batch=40,
        rollouts_per_epoch=2,
        max_prompt_tokens=24,
        max_new_tokens=16,
        seed=3,
    )
    module = PolicyModule(pretrained=model, reduce_gradients=reduce_gradients, optimizer=lambda params: torch.optim.SGD(params, lr=0.1))

    class Signal(pl.Callback):
        packs: ClassVar[list] = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batch.advantage = torch.sin(batch.sequence_index.float())
            self.packs.append([len(p) for p in batch.packs])

    signal = Signal()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=named_strategy(strategy),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=[signal],
    )
    trainer.fit(module, data)
    total = sum(float(t.double().abs().sum()) for _, t in module.full_weights())
    tokens = sum(len(s) for s in data.last_samples)
    row = {"rank": trainer.global_rank, "counts": dict(counts), "packs": signal.packs, "weights": total, "tokens": tokens}
    (Path(folder) / f"{trainer.global_rank}.json").write_text(json.dumps(row))
    dist.barrier()  # neither leaves while the other still needs it
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
