"""The rivals' callbacks: what they write, when they move, what is saved and what is refused. The rules are tested with the algorithms."""

from types import SimpleNamespace

import pytest

from aer_lightning.algorithms.objectives import (
    ClipCovObjective,
    ClipObjective,
    EntroPICObjective,
    PositiveAdvantageObjective,
    REPORObjective,
    STAREObjective,
)
from aer_lightning.callbacks import (
    ADAPOClip,
    EntroPICWeight,
    EntropyAnchor,
    FixedCoefficient,
    PositiveAdvantageWeight,
    REPORScale,
    STAREGate,
)
from aer_lightning.errors import ConfigError

ENTROPIES = [0.5, 0.3, 0.2, 0.6, 0.5, 0.1]  # the target is 0.4
# What each lets act in the six rollouts, by hand.
EXPECTED = {
    "zeta": (REPORScale(init=0.01), REPORObjective(), [0.01, 0.005, 0.01, 0.02, 0.01, 0.005]),
    "clip_high": (ADAPOClip(), ClipObjective(), [0.28, 0.14, 0.28, 0.56, 0.28, 0.14]),
    "surprisal_weight": (STAREGate(), STAREObjective(), [1.0, 1.0, 1.1, 1.1, 1.0, 1.0]),
    "sure_weight": (EntroPICWeight(), EntroPICObjective(), [0.0, 0.1, -0.099, -0.2, 0.198, 0.1]),
    "positive_weight": (PositiveAdvantageWeight(init=0.5), PositiveAdvantageObjective(), [0.5, 0.55, 0.5, 0.45, 0.5, 0.55]),
}


def fresh(scalar):
    callback, _, expected = EXPECTED[scalar]
    copy = type(callback)(**{n: getattr(callback.rule, n) for n in ("init",) if hasattr(callback.rule, n)})
    return [EntropyAnchor(absolute=0.4), copy], expected


@pytest.mark.parametrize("scalar", EXPECTED)
def test_what_acts_is_logged_and_follows_the_rollout_before(stack, scalar):
    callbacks, expected = fresh(scalar)
    rows = stack.rollouts(callbacks, ENTROPIES)
    assert [row[f"feedback/{scalar}"] for row in rows] == pytest.approx(expected)
    assert callbacks[1].rollouts == 6


@pytest.mark.parametrize("scalar", EXPECTED)
def test_the_batch_carries_it_and_only_a_rollouts_last_step_moves_it(stack, make_batch, scalar):
    callbacks, expected = fresh(scalar)
    for index, entropy in enumerate(ENTROPIES[:3]):
        for first, last in ((True, False), (False, False), (False, True)):
            batch = stack.step(callbacks, make_batch(entropy, index=index, first=first, last=last))
            assert batch.scalars == pytest.approx({scalar: expected[index]})


@pytest.mark.parametrize("scalar", EXPECTED)
def test_a_resumed_run_goes_on_bit_for_bit(stack, scalar):
    whole, _ = fresh(scalar)
    rows = stack.rollouts(whole, ENTROPIES)
    first, _ = fresh(scalar)
    stack.rollouts(first, ENTROPIES[:3])
    second, _ = fresh(scalar)
    for source, target in zip(first, second, strict=True):
        target.load_state_dict(source.state_dict())
    assert stack.rollouts(second, ENTROPIES[3:]) == rows[3:]
    assert all(isinstance(value, float | int) for value in second[1].state_dict().values())


def test_the_limits_are_shown(stack):
    rows = stack.rollouts([EntropyAnchor(absolute=0.4), ADAPOClip(init=0.9)], [0.1, 0.1, 0.9])
    assert [row["feedback/at_limit"] for row in rows] == [0, 1, 1]
    rows = stack.rollouts([EntropyAnchor(absolute=0.4), PositiveAdvantageWeight()], [0.1, 0.9, 0.9])
    assert [row["feedback/at_limit"] for row in rows] == [-1, -1, 0]


@pytest.mark.parametrize("scalar", EXPECTED)
def test_an_objective_that_does_not_read_it_is_refused(scalar):
    callbacks, _ = fresh(scalar)
    trainer = SimpleNamespace(callbacks=callbacks)
    callbacks[1].setup(trainer, SimpleNamespace(objective=EXPECTED[scalar][1]), "fit")
    with pytest.raises(ConfigError) as caught:
        callbacks[1].setup(trainer, SimpleNamespace(objective=ClipCovObjective()), "fit")
    message = str(caught.value)
    assert message.startswith("model.init_args.objective: ") and "\n" not in message
    assert scalar in message and "ClipCovObjective" in message and type(callbacks[1]).__name__ in message
    callbacks[1].setup(trainer, SimpleNamespace(objective=ClipCovObjective()), "validate")


@pytest.mark.parametrize("scalar", EXPECTED)
def test_without_an_anchor_it_is_refused(scalar):
    callbacks, _ = fresh(scalar)
    trainer = SimpleNamespace(callbacks=[FixedCoefficient(0.0), callbacks[1]])
    with pytest.raises(ConfigError, match=rf"^trainer.callbacks: {type(callbacks[1]).__name__} follows a target .* EntropyAnchor"):
        callbacks[1].setup(trainer, SimpleNamespace(objective=EXPECTED[scalar][1]), "fit")


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: REPORScale(init=2.0), "init"),
        (lambda: ADAPOClip(factor=0.5), "factor"),
        (lambda: STAREGate(weight=0.5), "weight"),
        (lambda: EntroPICWeight(kp=-1.0), "kp"),
        (lambda: PositiveAdvantageWeight(step=-1.0), "step"),
    ],
)
def test_options_are_checked_when_built(make, option):
    with pytest.raises(ConfigError, match=rf"^{option}: "):
        make()
