"""AER, part two: one global coefficient that holds the policy's entropy near the target."""

from __future__ import annotations

import math
from typing import Any, Literal

import lightning.pytorch as pl

from aer_lightning.algorithms.controllers import Controller, ExponentialAverage, PIController, ProportionalController, SignController
from aer_lightning.callbacks.coefficient import CoefficientCallback
from aer_lightning.errors import ConfigError
from aer_lightning.parts import check_part
from aer_lightning.rollout import RolloutBatch

CONTROLLERS: dict[str, type[PIController] | type[ProportionalController] | type[SignController]] = {
    "pi": PIController,
    "proportional": ProportionalController,
    "sign": SignController,
}
LIMITS = {"alpha_max": 1.0, "alpha_init": 0.0, "alpha_min": 0.0}  # what they are if left out
GAINS = {"pi": ("kp", "ki"), "proportional": ("eta",), "sign": ("eta",)}


class GlobalCoefficient(CoefficientCallback):
    """Owns alpha and moves it once per rollout, after its last optimizer step, from the rollout's entropy H_k.

    *Source* (arXiv 2510.10959): a global factor, updated all the time, keeps the entropy near the target. *Reading*: the step rules.
    docs/control.md says which was chosen, why, and where its gains come from.

    Args:
        controller: ``pi`` alpha <- alpha + kp (e_k - e_{k-1}) + ki e_k with e = (H* - H_k) / H*, ``proportional`` alpha + eta e (which
            integrates the error), or ``sign`` alpha + eta sign(e), all clipped to [alpha_min, alpha_max]. Left out it is ``pi``, or
            ``proportional`` where eta is given. Or an object of one's own with ``update``, ``alpha_init``, ``alpha_min`` and ``alpha_max``
            (``algorithms.controllers.Controller``), beside which none of the options below but smoothing applies.
        kp: gain of ``pi`` per change of the relative error, above 0; given together with ki.
        ki: gain of ``pi`` per relative error and rollout, above 0. Without both: .4 and .03.
        eta: step of ``proportional`` per relative error (.05), or of ``sign`` as it is (.005), above 0.
        alpha_max: largest alpha, above 0.
        alpha_init: alpha of the first rollout.
        smoothing: memory in [0, 1) of an exponential average of H_k that the controller sees; 0 is H_k itself.
        alpha_min: smallest alpha, at most 0; below 0 the coefficient may pull the entropy down to its target, too.
        rate: learning rate times optimizer steps per rollout for which kp was found, above 0; only with ``pi``. kp is then scaled by
            sqrt(rate / that of the rollout at hand) (``PIController.at_speed``), so that one pair of gains serves other learning rates,
            a schedule, and other numbers of steps. Left out, kp stays what it is.

    Raises:
        ConfigError: an option is out of range, or belongs to another controller.
    """

    needs_anchor = True
    follows_entropy = True

    def __init__(
        self,
        controller: Literal["pi", "proportional", "sign"] | Controller | None = None,
        eta: float | None = None,
        alpha_max: float = 1.0,
        alpha_init: float = 0.0,
        smoothing: float = 0.0,
        kp: float | None = None,
        ki: float | None = None,
        alpha_min: float = 0.0,
        rate: float | None = None,
    ) -> None:
        super().__init__()
        given = {name: value for name, value in {"eta": eta, "kp": kp, "ki": ki}.items() if value is not None}
        if controller is None or isinstance(controller, str):
            kind = controller if controller is not None else "pi" if eta is None else "proportional"
            check_gains(kind, given)
            controller = CONTROLLERS[kind](**given, alpha_max=alpha_max, alpha_init=alpha_init, alpha_min=alpha_min)
        else:
            check_part(controller, Controller, "GlobalCoefficient.controller")
            limits = {"alpha_max": alpha_max, "alpha_init": alpha_init, "alpha_min": alpha_min}
            if others := given | {name: value for name, value in limits.items() if value != LIMITS[name]}:
                raise ConfigError(f"{next(iter(others))}: is for the controllers of this package; {type(controller).__name__} has its own")
        if rate is not None:
            check_rate(rate, controller)
        self.controller: Controller = controller
        self.rate = rate
        self.moved = 0.0  # sum of the learning rates of this rollout's optimizer steps
        self.average = ExponentialAverage(smoothing)
        self.seen: float | None = None
        self.alpha = self.controller.alpha_init

    def limits(self) -> tuple[float, float]:
        """alpha_min and alpha_max."""
        return self.controller.alpha_min, self.controller.alpha_max

    def advance(self, batch: RolloutBatch) -> None:
        """One controller update. From alpha = 0 it recovers as soon as the entropy is below the target."""
        assert batch.target_entropy is not None, "EntropyAnchor writes the target before this callback runs"
        before, self.seen = self.seen, self.average.update(self.seen, batch.info.entropy)
        controller = self.controller
        # A rollout with a learning rate of 0 (a warm-up's first) says nothing about how fast the policy will answer.
        if self.rate is not None and self.moved > 0 and isinstance(controller, PIController):
            controller = controller.at_speed(self.moved / self.rate)
        self.moved = 0.0
        self.alpha = controller.update(self.alpha, self.seen, batch.target_entropy, before)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the coefficient; note how far the policy is about to move."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self.rate is not None:
            self.moved += float(trainer.optimizers[0].param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Alpha, what the smoothing has seen (the next change is measured from it), and the steps of an unfinished rollout."""
        return super().state_dict() | {"seen": self.seen, "moved": self.moved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state back."""
        super().load_state_dict(state_dict)
        self.seen, self.moved = state_dict["seen"], state_dict.get("moved", 0.0)


def check_rate(rate: float, controller: Controller) -> None:
    """Refuse a rate that is none, or one for a controller whose gains do not scale.

    Raises:
        ConfigError: names the option.
    """
    if not 0 < rate < math.inf:
        raise ConfigError(f"rate: the learning rate times optimizer steps per rollout for which kp was found must be above 0, got {rate}")
    if not isinstance(controller, PIController):
        raise ConfigError("rate: scales kp, which only controller pi has; leave rate out or choose pi")


def check_gains(controller: str, given: dict[str, float]) -> None:
    """Refuse an unknown controller, half of a pair of gains, and gains of another controller.

    Raises:
        ConfigError: names the option.
    """
    if controller not in CONTROLLERS:
        raise ConfigError(f"controller: must be one of {', '.join(CONTROLLERS)}, got {controller!r}")
    gains = GAINS[controller]
    if foreign := [name for name in given if name not in gains]:
        raise ConfigError(
            f"{foreign[0]}: controller {controller} has no such gain, its own are {' and '.join(gains)}; "
            f"leave {foreign[0]} out or choose another controller"
        )
    if controller == "pi" and len(given) == 1:
        there = next(iter(given))
        missing = "ki" if there == "kp" else "kp"
        raise ConfigError(f"{missing}: {there} is given without it; give both (tune-controller proposes them), or neither for the defaults")
