"""Engine and trainer take turns: fresh weights before a generation, the device's memory, and a worker that was lost meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from aer_lightning.data.engines.base import Completion, Engine, GenerationRequest, SamplingParams
from aer_lightning.data.engines.checksum import checksum, compare_checksums
from aer_lightning.data.grading import completions_as_they_end
from aer_lightning.distributed import max_over_ranks
from aer_lightning.errors import EngineLost, StaleWeightsError

CHECKED = 8  # of so many weights one is read back from the engine at a sync, another at the next


class Memory(Protocol):
    """Who holds the accelerator's memory when; see ``aer_lightning.modules.memory``."""

    generating: bool

    def make_room(self) -> None:
        """Before the engine takes new weights."""

    def hand_over(self) -> None:
        """Before the engine generates."""

    def take_back(self) -> None:
        """After the engine has gone to sleep."""


class WeightSource(Protocol):
    """Where an engine's weights come from."""

    weight_version: int
    memory: Memory
    device: torch.device

    def full_weights(self) -> Any:
        """(name, full tensor) pairs; collective under sharding."""


class EngineTurns:
    """When an engine has the device, and with which weights.

    An engine with a ``restart`` may raise ``EngineLost``. It is then started again and synced anew, on every rank if weights are
    sharded, and what it was generating is generated once more.

    Args:
        engine: started.
        policy: gives the weights, and says who holds the memory.
        sleep: whether the engine gives its memory back after its turn.
    """

    def __init__(self, engine: Engine, policy: WeightSource, sleep: bool = False) -> None:
        self.engine, self.policy, self.sleep = engine, policy, sleep

    def sync(self, again: bool = False) -> None:
        """Give the engine its turn, with the policy's weights if they changed, it slept or ``again`` says so. Collective under sharding."""
        push = again or self.engine.weight_version != self.policy.weight_version or getattr(self.engine, "needs_weights", False)
        while True:
            lost = None
            try:
                if push:
                    self.rest()
                    self.policy.memory.make_room()
                    self._push_weights()
                if not self.policy.memory.generating:
                    self.policy.memory.hand_over()
                    if (wake := getattr(self.engine, "wake", None)) is not None:
                        wake()
            except EngineLost as error:
                lost = error
            if not self._revive(lost):
                return
            push = True

    def rest(self) -> None:
        """End the engine's turn: it sleeps, and the trainer's memory returns. Does nothing where it has not begun."""
        if self.policy.memory.generating:
            if self.sleep:
                try:
                    self.engine.sleep()
                except EngineLost as error:  # every rank syncs before it generates again
                    _restart(self.engine, error)
            self.policy.memory.take_back()

    def stream(self, requests: Sequence[GenerationRequest], sampling: SamplingParams) -> Iterator[tuple[int, Completion]]:
        """(place, completion) as they end. Where the engine was lost meanwhile, it draws all of them once more. Collective then.

        All and not those that are missing, because only the same batch gives the same completions to the bit.
        """
        ended: set[int] = set()
        while True:
            lost = None
            try:
                if len(ended) < len(requests):
                    for place, completion in completions_as_they_end(self.engine, requests, sampling):
                        if place not in ended:
                            ended.add(place)
                            yield place, completion
            except EngineLost as error:
                lost = error
            if not self._revive(lost):
                return
            self.sync(again=True)

    def _revive(self, lost: EngineLost | None) -> bool:
        """Start this rank's engine again if it was lost; whether one was on any rank, so that all sync again. Collective."""
        if lost is not None:
            _restart(self.engine, lost)
        if not hasattr(self.engine, "restart"):
            return False
        return bool(max_over_ranks([lost is not None], self.policy.device)[0])

    def _push_weights(self) -> None:
        """Sync, and read some weights back: an engine that did not take them is found whatever its precision.

        Raises:
            StaleWeightsError: the engine did not read all weights, or serves others than the policy's.
        """
        version, read_back = self.policy.weight_version, getattr(self.engine, "checksums", None)
        sampled: dict[str, str] = {}
        finished = False

        def passed_on() -> Iterator[tuple[str, Tensor]]:
            nonlocal finished
            for i, (name, tensor) in enumerate(self.policy.full_weights()):
                if read_back is not None and (i + version) % CHECKED == 0:
                    sampled[name] = checksum(tensor, self.engine.weight_dtype)
                yield name, tensor
            finished = True

        weights = passed_on()
        try:
            self.engine.sync_weights(weights, version)
        except EngineLost:
            for _ in weights:  # gathering them is collective under sharding
                pass
            raise
        if not finished:
            raise StaleWeightsError(
                f"{type(self.engine).__name__}.sync_weights did not read the policy's weights to the end; the engine would generate with "
                "old ones"
            )
        if read_back is not None:
            compare_checksums(sampled, read_back(sampled))


def _restart(engine: Any, lost: EngineLost) -> None:
    print(f"{lost}; it is started again, with the weights of this step", file=sys.stderr, flush=True)
    engine.restart()
