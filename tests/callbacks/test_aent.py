import pytest

from aer_lightning.callbacks import AEntCoefficient
from aer_lightning.errors import ConfigError


def test_it_rests_inside_the_band_and_moves_outside_by_the_distance(stack):
    callback = AEntCoefficient(entropy_low=0.2, entropy_high=0.4, lr=0.5, alpha_max=0.1, alpha_init=0.05)
    rows = stack.rollouts([callback], [0.3, 0.2, 0.4, 0.1, 0.44, 0.0, 0.3])
    # Below the band by 0.1: + 0.05; above it by 0.04: - 0.02; below by 0.2: + 0.1, held at 0.1.
    assert [row["aer/alpha"] for row in rows] == pytest.approx([0.05, 0.05, 0.05, 0.05, 0.1, 0.08, 0.1])
    assert [row["aer/at_limit"] for row in rows] == [0, 0, 0, 0, 1, 0, 1]


def test_the_coefficient_acts_at_once(stack, make_batch):
    batch = stack.step([AEntCoefficient(alpha_init=0.05)], make_batch(2.0))
    assert batch.entropy_coefficient.tolist() == pytest.approx([0.05, 0.05])


def test_it_falls_to_its_floor_above_the_band(stack):
    callback = AEntCoefficient(entropy_low=0.1, entropy_high=0.2, lr=1.0, alpha_min=0.01, alpha_init=0.5)
    rows = stack.rollouts([callback], [0.6, 0.6, 0.6])
    assert [row["aer/alpha"] for row in rows] == pytest.approx([0.5, 0.1, 0.01]) and rows[-1]["aer/at_limit"] == -1


def test_what_it_regularises_and_follows_is_the_clamped_entropy(stack, make_batch):
    callback = AEntCoefficient(clamp=0.4, entropy_low=0.2, entropy_high=0.4, lr=0.5)
    batch = make_batch(0.3)
    batch.info.stats["regularised_entropy"] = 0.1
    assert stack.step([callback], batch).scalars == pytest.approx({"entropy_top_share": 0.6})
    assert callback.alpha == pytest.approx(0.05), "0.3 nat is inside the band, 0.1 is not"
    assert stack.step([AEntCoefficient(clamp=0.0)], make_batch(0.3)).scalars == {}
    for clamp in (-0.1, 1.0):
        with pytest.raises(ConfigError, match=r"^clamp: "):
            AEntCoefficient(clamp=clamp)


def test_options_are_checked_when_built():
    with pytest.raises(ConfigError, match=r"^entropy_low: "):
        AEntCoefficient(entropy_low=0.4, entropy_high=0.3)
