import pytest

from aer_lightning.callbacks import EntropyAnchor, SIRENCoefficient
from aer_lightning.callbacks.stack import check_stack
from aer_lightning.errors import ConfigError


def run(stack, make_batch, callbacks, entropies):
    """Rollouts whose regularised entropy differs from H_k, which stays 9 nat."""
    rows, scalars = [], []
    for index, entropy in enumerate(entropies):
        stack.logged = {}
        batch = make_batch(9.0, index=index)
        batch.info.stats["regularised_entropy"] = entropy
        scalars.append(stack.step(callbacks, batch).scalars)
        rows.append(stack.logged)
    return rows, scalars


def siren(**options):
    return [EntropyAnchor(tau=1.0, measure="regularised"), SIRENCoefficient(**options)]


def test_it_is_proportional_to_the_distance_from_its_own_initial_entropy(stack, make_batch):
    """By hand: 2 c (H_a - H) / (1 - q) of the rollout before, with c 0.01 and q 0.8: a tenth of the distance, of either sign."""
    rows, scalars = run(stack, make_batch, siren(coefficient=0.01), [1.2, 1.0, 0.7, 1.5, 1.2])
    assert [row["aer/alpha"] for row in rows] == pytest.approx([0.0, 0.0, 0.02, 0.05, -0.03], abs=1e-12)
    assert [row["aer/target_entropy"] for row in rows] == [1.2] * 5
    assert [row["aer/entropy_over_target"] for row in rows] == pytest.approx([1.0, 1 / 1.2, 0.7 / 1.2, 1.25, 1.0])
    assert scalars == [{"entropy_top_p": 0.8, "entropy_quantile": 0.8}] * 5


def test_the_coefficient_acts_from_both_sides(stack, make_batch):
    callbacks = siren(coefficient=0.01)
    run(stack, make_batch, callbacks, [1.0, 1.4])
    assert stack.step(callbacks, make_batch(9.0, index=2)).entropy_coefficient.tolist() == pytest.approx([-0.04, -0.04])


def test_a_resumed_run_goes_on(stack, make_batch):
    entropies = [1.2, 1.0, 0.7, 1.5]
    whole, _ = run(stack, make_batch, siren(), entropies)
    first, second = siren(), siren()
    run(stack, make_batch, first, entropies[:2])
    for source, target in zip(first, second, strict=True):
        target.load_state_dict(source.state_dict())
    assert run(stack, make_batch, second, entropies[2:])[0] == whole[2:]


def test_it_is_refused_without_its_anchor_and_with_options_out_of_range():
    with pytest.raises(ConfigError, match=r"SIRENCoefficient follows a target"):
        check_stack([SIRENCoefficient()])
    for options, name in (({"coefficient": 0.0}, "coefficient"), ({"top_p": 0.0}, "top_p"), ({"quantile": 1.0}, "quantile")):
        with pytest.raises(ConfigError, match=rf"^{name}: "):
            SIRENCoefficient(**options)
    with pytest.raises(ConfigError, match=r"^measure: "):
        EntropyAnchor(measure="half")
