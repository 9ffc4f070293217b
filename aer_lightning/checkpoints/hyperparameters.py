"""Optimizer and schedule of a run and of its checkpoint: another class is refused, another value takes effect."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from aer_lightning.errors import ConfigError


def describe(trainer: pl.Trainer) -> dict[str, Any]:
    """Classes and options of optimizers and schedulers as configured; read before a checkpoint is restored. Plain values."""
    return {
        "optimizers": [
            {"class": type(o).__name__, "groups": [_plain({k: v for k, v in g.items() if k != "params"}) for g in o.param_groups]}
            for o in trainer.optimizers
        ],
        "schedulers": [
            {"class": type(c.scheduler).__name__, "options": _plain(c.scheduler.state_dict())} for c in trainer.lr_scheduler_configs
        ],
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.tolist()
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        return value if isinstance(value, int | float | str | type(None)) else repr(type(value))

    return {name: plain(value) for name, value in values.items()}


def check(saved: Mapping[str, Any], fresh: Mapping[str, Any], allowed: tuple[str, ...] = ()) -> None:
    """Refuse an optimizer of another class, whose state means something else.

    Raises:
        ConfigError: names both.
    """
    old, new = ([entry["class"] for entry in described["optimizers"]] for described in (saved, fresh))
    if old != new and not any("optimizer" in name for name in allowed):
        raise ConfigError(
            f"model.init_args.optimizer: the checkpoint has {', '.join(old)}, this run {', '.join(new)}; "
            "a state of one is none of the other, so start a new run from the exported model"
        )


def apply(trainer: pl.Trainer, saved: Mapping[str, Any], fresh: Mapping[str, Any]) -> None:
    """Have changed options take effect after Lightning has restored the old ones.

    Options of the optimizer are set. A changed schedule is built anew and put where it would stand had it been there from the start.

    Raises:
        ConfigError: the schedule follows a metric, so that nobody knows where it would stand.
    """
    pairs = list(zip(trainer.optimizers, saved["optimizers"], fresh["optimizers"], strict=True))
    for optimizer, old, new in pairs:
        for group, before, after in zip(optimizer.param_groups, old["groups"], new["groups"], strict=True):
            for name, value in after.items():
                if before.get(name) != value and name not in ("lr", "initial_lr"):
                    rank_zero_info(f"optimizer: {name} is {value} from here on, {before.get(name)} before")
                    group[name] = value
    if saved["schedulers"] == fresh["schedulers"] and all(_rates(old) == _rates(new) for _, old, new in pairs):
        return
    for optimizer, _, new in pairs:
        for group, rate in zip(optimizer.param_groups, _rates(new), strict=True):
            group["lr"] = rate
            group.pop("initial_lr", None)
    if fresh["schedulers"]:
        _reschedule(trainer)
    else:
        rank_zero_info(f"learning rate: {', '.join(str(rate) for _, _, new in pairs for rate in _rates(new))} from here on")


def _rates(described: Mapping[str, Any]) -> list[float]:
    """The learning rate of each group before any schedule."""
    return [group.get("initial_lr", group["lr"]) for group in described["groups"]]


def _reschedule(trainer: pl.Trainer) -> None:
    """Fresh schedulers, stepped as often as optimizer steps (or epochs) were done."""
    make: Any = trainer.lightning_module.make_scheduler
    for config in trainer.lr_scheduler_configs:
        scheduler = make(config.scheduler.optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ConfigError(
                "model.init_args.lr_scheduler: a schedule that follows a metric cannot be put into a run that goes on; keep the old one"
            )
        done = trainer.global_step if config.interval == "step" else trainer.current_epoch
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no optimizer step came in between is the point
            for _ in range(done // config.frequency):
                scheduler.step()
        config.scheduler = scheduler
        rates = ", ".join(f"{rate:.3g}" for rate in scheduler.get_last_lr())
        rank_zero_info(f"learning rate: {type(scheduler).__name__} as configured now, {rates} at step {done}")
