"""One cell of the table precision x strategy: fit, resume, validate and export; prints what came out of each on rank zero.

Arguments: the model's folder, strategy (``auto`` for one process), precision, an empty folder.
"""

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from aer_lightning.callbacks import DifficultyCoefficient, EntropyAnchor, GlobalCoefficient
from aer_lightning.callbacks.export import HFExport
from aer_lightning.data.datamodule import RolloutDataModule
from aer_lightning.data.engines import TransformersEngine
from aer_lightning.data.prompts import CountdownPrompts
from aer_lightning.modules.policy import PolicyModule
from aer_lightning.modules.strategies import named_strategy


class Curve(pl.Callback):
    """Figures of each rollout, with advantages that a random model has too."""

    def __init__(self):
        self.rows = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        batch.advantage = torch.sin(batch.sequence_index.float())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        names = ("train/loss", "rollout/entropy", "train/grad_norm", "aer/alpha")
        self.rows.append([float(trainer.callback_metrics[name]) for name in names])


def run(model, strategy, precision, folder):
    folder = Path(folder)
    torch.set_num_threads(1)

    def trainer(epochs, name):
        pl.seed_everything(3, verbose=False)
        curve = Curve()
        stack = [EntropyAnchor(tau=1.5), GlobalCoefficient(alpha_init=0.05), DifficultyCoefficient(), curve]
        keep = ModelCheckpoint(dirpath=folder / name, every_n_epochs=1, save_top_k=-1, filename="{epoch}", enable_version_counter=False)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}
        return curve, pl.Trainer(
            accelerator="cpu",
            devices=1 if strategy == "auto" else 2,
            strategy=named_strategy(strategy),
            precision=precision,
            max_epochs=epochs,
            num_sanity_val_steps=0,
            limit_val_batches=0 if name != "validate" else None,
            callbacks=[*stack, keep, HFExport()],
            default_root_dir=str(folder / name),
            **quiet,
        )

    def parts():
        data = RolloutDataModule(
            prompts=CountdownPrompts(split="train", numbers=(2, 3)),
            evaluation=[CountdownPrompts(split="validation", numbers=(2, 3), size=4)],
            engine=TransformersEngine(),
            prompts_per_rollout=4,
            responses_per_prompt=4,
            tokens_per_micro_batch=128,
            rollouts_per_epoch=1,
            max_prompt_tokens=24,
            max_new_tokens=8,
            max_mismatch=1.0,
            eval_samples=2,
            seed=3,
        )
        module = PolicyModule(pretrained=model, optimizer=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.5))
        return module, data

    whole, fit = trainer(2, "whole")
    module, data = parts()
    fit.fit(module, data)
    resumed, again = trainer(2, "resumed")
    second, data = parts()
    again.fit(second, data, ckpt_path=str(folder / "whole" / "epoch=0.ckpt"))
    same = all(torch.equal(a, b) for (_, a), (_, b) in zip(module.full_weights(), second.full_weights(), strict=True))
    _, look = trainer(1, "validate")
    third, data = parts()
    (values,) = look.validate(third, data, ckpt_path=str(folder / "whole" / "epoch=1.ckpt"), verbose=False)
    if fit.is_global_zero:
        from safetensors.torch import load_file

        exported = load_file(folder / "whole" / "model" / "model.safetensors")
        total = sum(float(t.double().abs().sum()) for t in exported.values())
        out = {
            "fit": whole.rows,
            "resumed": resumed.rows,
            "same": same,
            "exported": total,
            "validate": values["val/countdown/response_length"],
        }
        print("RESULT " + json.dumps(out), flush=True)


if __name__ == "__main__":
    run(*sys.argv[1:])
