"""What ``fit`` says of its needs before anything is loaded, and the whole of it that can be tried without loading: ``--dry_run``."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from aer_lightning.plan.command import plan, verdict
from aer_lightning.plan.facts import RunFacts, run_facts
from aer_lightning.plan.hardware import Accelerator
from aer_lightning.rollout import deal, plan_packs


def present_device() -> Accelerator | None:
    """The first NVIDIA GPU of this machine by its memory, None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    return Accelerator(torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory / 2**30)


def announce(config: Mapping[str, Any], device: Accelerator | None = None) -> str | None:
    """Print the plan's verdict, as a warning where the run does not fit; nothing without an accelerator.

    Args:
        config: of ``fit``, plain mappings.
        device: the accelerator; that of this machine if left out.
    """
    device = device or present_device()
    if device is None:
        return None
    result = plan(run_facts(config), device)
    line = f"plan: {verdict(result)}"
    (rank_zero_info if result["fits"] else rank_zero_warn)(line)
    return line


def fabricated_packs(run: RunFacts, seed: int = 0) -> list[list[list[int]]]:
    """Packs of one made-up optimizer step: completions of random length, dealt to the run's ranks. ``[ranks][packs][sequences]``."""
    draw = random.Random(seed)
    count = run.sequences // run.steps
    lengths = [run.max_prompt + draw.randint(1, run.max_new) for _ in range(count)]
    shares = deal(lengths, run.world_size)
    return plan_packs([[lengths[i] for i in share] for share in shares], run.tokens)


def dry_run(module: Any, data: Any, trainer: Any, config: Mapping[str, Any]) -> list[str]:
    """Every check of a run, one fabricated rollout and one step on fake tensors at real shapes; loads no weights and starts no engine.

    Args:
        module, data, trainer: as ``fit`` has built them.
        config: of ``fit``, plain mappings.

    Returns:
        What was found, a line each.

    Raises:
        UserError: whatever ``fit`` would refuse before it trains.
    """
    from aer_lightning.plan.activations import activation_bytes

    trainer.strategy._lightning_module = module
    module._trainer = trainer
    data.trainer = trainer
    trainer.strategy.connect(module)
    trainer._data_connector.attach_datamodule(module, datamodule=data)
    try:
        module.setup("fit")
        data.setup("fit")
        for callback in trainer.callbacks:
            if type(callback).__module__.startswith("aer_lightning.callbacks") and hasattr(callback, "role"):
                callback.setup(trainer, module, "fit")
        stream = data.stream
        lines = [f"prompts: {stream.source.name}, {'endless' if stream.usable > 2**60 else f'{stream.usable} usable'}"]
        run = run_facts(config)
        packs = fabricated_packs(run)
        lines.append(
            f"a made-up optimizer step: {run.sequences // run.steps} sequences on {run.world_size} rank{'s' * (run.world_size > 1)}, "
            f"{len(packs[0])} packs on each"
        )
        longest = run.max_prompt + run.max_new
        tokens = min(run.tokens, max(longest, run.sequences // run.steps // run.world_size * longest))
        held = activation_bytes(run.model.config, tokens, longest, mixed=run.mixed, checkpointing=run.checkpointing, gradient=True)
        lines.append(f"a step on fake tensors: {tokens} tokens hold {held / 2**30:.2f} GiB beside weights, gradients and states")
        device = present_device()
        if device is not None:
            lines.append(verdict(plan(run, device)))
    finally:
        data.teardown("fit")
    return lines
