"""AER with plain Lightning, without the command line: python examples/train.py [FOLDER]; its files are those of any run."""

import sys

import lightning.pytorch as pl

import aer_lightning as aer

folder = sys.argv[1] if len(sys.argv) > 1 else "runs/example"
pl.seed_everything(1)
data = aer.RolloutDataModule(
    prompts=aer.CountdownPrompts(split="train"),
    evaluation=[aer.CountdownPrompts(split="validation", size=48)],
    engine=aer.TransformersEngine(),
    rollouts_per_epoch=10,
)
stack = [aer.EntropyAnchor(tau=0.65), aer.GlobalCoefficient(), aer.DifficultyCoefficient()]
trainer = pl.Trainer(max_epochs=1, gradient_clip_val=1.0, callbacks=[*stack, *aer.reports()], default_root_dir=folder, logger=False)
trainer.fit(aer.PolicyModule("countdown-tiny"), data)
