"""Options of an optimizer, tried on a single number before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from aer_lightning.errors import ConfigError


def check_optimizer(build: Callable[[Any], torch.optim.Optimizer], option: str = "model.init_args.optimizer") -> None:
    """Refuse options that the optimizer refuses, or a learning rate that is no number from 0 on.

    Args:
        build: makes the optimizer of some parameters. One that cannot be tried on a single number is left alone.
        option: for the message.

    Raises:
        ConfigError: says what is wrong.
    """
    try:
        groups = build([nn.Parameter(torch.zeros(1, 1))]).param_groups
    except ValueError as error:
        raise ConfigError(f"{option}: {' '.join(str(error).split())}") from None
    except Exception:  # it may need a GPU, or names, or more than a number
        return
    for group in groups:
        rate = float(group.get("lr") or 0.0)
        if not 0 <= rate < math.inf:
            raise ConfigError(f"{option}.init_args.lr: {rate} is no learning rate; give a finite number from 0 on")
