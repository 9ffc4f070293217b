"""One contestant of `peers.py` for a few rollouts: `python peers_run.py LOAD.json OUT.json`, in the environment of its library.

Writes the seconds of every optimizer step and, of each, how long the phases took by themselves: the time within a function of a phase
that no function of another phase within it took. What is in none is "rest".
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any


class Clock:
    """Exclusive seconds per phase, and a mark at the end of every step.

    Args:
        cpu_time: processor time of this process in place of wall time.
    """

    def __init__(self, cpu_time: bool) -> None:
        self._now = time.process_time if cpu_time else time.perf_counter
        self.steps: list[dict[str, float]] = []
        self._phases: defaultdict[str, float] = defaultdict(float)
        self._inner: list[float] = []
        self._began = self._now()

    def wrap(self, owner: Any, name: str, phase: str) -> None:
        """Count the time within ``owner.name`` to ``phase``."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*args, **kwargs)  # what runs beside the step takes none of its time
            self._inner.append(0.0)
            began = self._now()
            try:
                return function(*args, **kwargs)
            finally:
                took = self._now() - began
                self._phases[phase] += took - self._inner.pop()
                if self._inner:
                    self._inner[-1] += took

        setattr(owner, name, timed)

    def wrap_items(self, owner: Any, name: str, phase: str) -> None:
        """The same of the iterator that ``owner.name`` returns: the time until each item, not what is done with it."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            class Items:
                def __init__(self) -> None:
                    self.iterator = iter(function(*args, **kwargs))

                def __iter__(self) -> Any:
                    return self

                def advance(self) -> Any:
                    return next(self.iterator)

            items = Items()
            self.wrap(items, "advance", phase)
            Items.__next__ = lambda self: self.advance()
            return items

        setattr(owner, name, timed)

    def step(self) -> None:
        """A step has ended."""
        now = self._now()
        seconds = now - self._began
        phases = dict(self._phases)
        self.steps.append({"seconds": seconds, **phases, "rest": seconds - sum(phases.values())})
        self._phases.clear()
        self._began = now


def ours(load: dict[str, Any]) -> list[dict[str, float]]:
    """`fit` of `configs/aer.yaml` with an engine, without evaluation and pictures."""
    import lightning.pytorch as pl
    import torch

    from aer_lightning.cli import build

    torch.set_num_threads(load["threads"])
    values = {
        "data.init_args.engine": load["contestant"],
        "model.init_args.pretrained": load["model"],
        "trainer.max_epochs": 1,
        "data.init_args.rollouts_per_epoch": load["steps"],
        "trainer.limit_val_batches": 0,
        "samples.every": 0,
        "curves.enabled": False,
        "initial_validation.enabled": False,
        "run_dir": load["run_dir"],
    }
    built = build(["fit", "-c", load["config"], *(f"--{key}={value}" for key, value in values.items())], run=False)
    clock, module, data = Clock(load["cpu_time"]), built.model, built.datamodule

    class Marks(pl.Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            clock.wrap(trainer.strategy, "backward", "forward and backward")

        def on_train_batch_end(self, *_: Any) -> None:
            clock.step()

    clock.wrap(data, "collect", "score, advantages, packs")
    clock.wrap(data.engine, "sync_weights", "sync")
    clock.wrap(module, "training_step", "forward and backward")
    clock.wrap(module, "optimizer_step", "optimizer")
    clock.wrap_items(data.engine, "stream", "generate")
    setup = data.setup

    def with_verifier(stage: str) -> None:
        setup(stage)
        clock.wrap(data.stream.verifier, "grade", "verify")

    data.setup = with_verifier
    built.trainer.callbacks.append(Marks())
    built.trainer.fit(module, datamodule=data)
    return clock.steps


def trl(load: dict[str, Any]) -> list[dict[str, float]]:
    """TRL's `GRPOTrainer` with its own `generate` path on the same prompts; all completions in one batch suit so small a model best."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from aer_lightning.data.rewards.countdown import CountdownGrader

    torch.set_num_threads(load["threads"])
    grader = CountdownGrader()

    def reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        return [grader.grade(text, json.loads(gold)).reward for text, gold in zip(completions, answer, strict=True)]

    rows = [{"prompt": text, "answer": json.dumps(gold)} for text, gold in load["prompts"]]
    arguments = GRPOConfig(
        output_dir=load["run_dir"],
        max_steps=load["steps"],
        per_device_train_batch_size=load["prompts_per_rollout"] * load["responses"],
        num_generations=load["responses"],
        max_completion_length=load["max_new_tokens"],
        temperature=1.0,
        learning_rate=load["lr"],
        lr_scheduler_type="constant",
        beta=0.0,
        loss_type="dapo",  # the mean over tokens, as in ours
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        seed=1,
    )
    clock = Clock(load["cpu_time"])

    class Marks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.step()

    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(load["model"], dtype=torch.float32),
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(load["model"]),
        callbacks=[Marks()],
    )
    clock.wrap(trainer, "training_step", "forward and backward")
    clock.wrap(trainer, "_prepare_inputs", "score, advantages, packs")
    clock.wrap(trainer, "_generate_single_turn", "generate")
    clock.wrap(trainer, "_calculate_rewards", "verify")
    create = trainer.create_optimizer

    def with_optimizer(*args: Any, **kwargs: Any) -> Any:
        made = create(*args, **kwargs)
        clock.wrap(trainer.optimizer, "step", "optimizer")
        return made

    trainer.create_optimizer = with_optimizer
    trainer.train()
    return clock.steps


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps((trl if given["contestant"] == "TRL" else ours)(given)))
