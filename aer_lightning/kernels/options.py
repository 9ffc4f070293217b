"""Everything about a call that is no tensor, in one value that travels through the custom operators as a string."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from aer_lightning.kernels.planning import Plan


@dataclass(frozen=True)
class Options:
    """See `aer_lightning.kernels.linear_token_stats`."""

    backend: str
    plan: Plan | None = None  # None: made within the operator (under torch.compile, where sizes are symbols)
    memory: float | str = "auto"  # MiB
    ignore_index: int | None = None
    group: str = ""
    start: int = 0
    total: int = 0  # vocabulary over all shards; 0: that of the head
    temperature: float = 1.0
    softcap: float = 0.0  # 0: none
    scale: float = 1.0
    entropy: bool = True
    lse: bool = False
    share: float = 1.0
    mass: float = 1.0
    in_place: bool = False

    @property
    def top(self) -> tuple[float, float] | None:
        """Share and mass of the part of the row that the entropy is over; None for the whole row."""
        return (self.share, self.mass) if self.entropy and (self.share < 1 or self.mass < 1) else None

    @property
    def usual(self) -> bool:
        """Whether log-probability and entropy are asked for, of plain logits."""
        return self.entropy and not (self.top or self.lse or self.softcap)

    @property
    def squash(self) -> float:
        """What goes before the tangent of a softcap: the kernels work on x = tanh(squash z); 0 for x = z."""
        return self.scale / self.softcap if self.softcap else 0.0

    def inverse(self, row_temperature: Tensor | None, rows: Tensor | None, mask: Tensor | None, dtype: torch.dtype) -> Tensor | float:
        """What x is multiplied with, 1 / T in short: a float, or ``[n]`` of the selected `rows`; 1 where `mask` says none is needed."""
        factor = self.softcap or self.scale
        if row_temperature is None:
            return factor / self.temperature
        values = row_temperature if rows is None else row_temperature[rows]
        if rows is None and mask is not None:
            values = values.where(mask, torch.ones_like(values))
        return factor / values.to(dtype)

    def encode(self) -> tuple[str, list[int], list[float]]:
        """As arguments of an operator. Numbers go apart from the text: under `torch.compile` they may be symbols, which have none."""
        made = None if self.plan is None else self.plan.encode()
        text = (
            f"{{'backend': {self.backend!r}, 'plan': {made!r}, 'group': {self.group!r}, 'entropy': {self.entropy!r}, 'lse': {self.lse!r}, "
            f"'in_place': {self.in_place!r}, 'ignores': {self.ignore_index is not None!r}, 'automatic': {self.memory == 'auto'!r}}}"
        )
        integers = [0 if self.ignore_index is None else self.ignore_index, self.start, self.total]
        memory = 0.0 if isinstance(self.memory, str) else self.memory
        return text, integers, [self.temperature, self.softcap, self.scale, self.share, self.mass, memory]

    @staticmethod
    def decode(text: str, integers: Sequence[int], numbers: Sequence[float]) -> Options:
        """The inverse of `encode`."""
        fields, made = _parse(text)
        ignores, automatic = fields["ignores"], fields["automatic"]
        temperature, softcap, scale, share, mass, memory = numbers
        return Options(
            fields["backend"], made, "auto" if automatic else memory, integers[0] if ignores else None, fields["group"], integers[1],
            integers[2], temperature, softcap, scale, fields["entropy"], fields["lse"], share, mass, fields["in_place"],
        )  # fmt: skip


@lru_cache(maxsize=512)
def _parse(text: str) -> tuple[dict[str, Any], Plan | None]:
    fields = ast.literal_eval(text)
    return fields, None if fields["plan"] is None else Plan.decode(fields["plan"])
