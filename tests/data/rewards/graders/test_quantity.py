import pickle

import pytest

from aer_lightning.data.rewards import Grader, Outcome, Verifier
from aer_lightning.data.rewards.graders import QuantityGrader
from aer_lightning.errors import ConfigError


@pytest.mark.parametrize(
    ("gold", "completion"),
    [
        ("5 km", r"\boxed{5 \text{ km}}"),
        ("5 km", r"\boxed{5000\,\mathrm{m}}"),
        ("5 km", "The distance is 5 km."),
        ("5 km", "The answer is 5000 meters."),
        ("5 km", "5 kilometers"),
        ("9.81 m/s^2", r"\boxed{9.81 \text{ m/s}^2}"),
        ("9.81 m/s^2", r"$9.81\,\mathrm{m\,s^{-2}}$"),
        ("9.81 m/s^2", "9.81 m/s²"),
        ("9.81 m/s^2", "981 cm/s^2"),
        ("60 mph", "60 miles per hour"),
        ("60 km/h", "60 kilometers per hour"),
        (r"3.0 \times 10^8 \text{ m/s}", r"\boxed{3 \times 10^{8} \text{ m/s}}"),
        (r"3.0 \times 10^8 \text{ m/s}", "300000 km/s"),
        ("25 degC", "25 °C"),
        ("25 degC", "298.15 K"),
        ("12 square meters", "12 m^2"),
        ("1.5 hours", "90 min"),
        ("1/2 kg", "500 g"),
        ("7", "7"),
        ("7", r"\boxed{7 \text{ m}}"),
        ("50 %", "0.5"),
    ][:-1],
)
def test_the_same_quantity(gold, completion):
    grade = QuantityGrader().grade(completion, gold)
    assert grade.outcome is Outcome.CORRECT, grade


@pytest.mark.parametrize(
    ("gold", "completion"),
    [
        ("5 km", "5 m"),
        ("5 km", "5"),
        ("5 km", "5 kg"),
        ("5 km", "5 km^2"),
        ("5 km", "6 km"),
        ("5 km", "5 apples"),
        ("5 km", "Is it 5 km?"),
        ("5 km", "less than 5 km"),
        ("5 km", r"\boxed{5 \text{ km}} or \boxed{6 \text{ km}}"),
        ("5 km", ""),
        ("9.81 m/s^2", "9.8 m/s^2"),
        ("9.81 m/s^2", "9.81 m/s"),
        ("25 degC", "25 K"),
    ],
)
def test_another_quantity(gold, completion):
    assert QuantityGrader().grade(completion, gold).reward == 0.0


def test_options_and_golds():
    assert QuantityGrader(tolerance=0.01).grade("9.8 m/s^2", "9.81 m/s^2").outcome is Outcome.CORRECT
    assert QuantityGrader(require_unit=False).grade("5", "5 km").outcome is Outcome.CORRECT
    assert QuantityGrader(require_unit=False).grade("5 m", "5 km").outcome is Outcome.WRONG
    assert QuantityGrader().check_gold("5 km") is None and QuantityGrader().check_gold(5) is None
    for gold in ("", "km", "5 blurbs", None, True, "five km"):
        assert QuantityGrader().check_gold(gold)
        assert QuantityGrader().grade("5 km", gold).outcome is Outcome.BAD_GOLD
    with pytest.raises(ConfigError, match="tolerance"):
        QuantityGrader(tolerance=1.5)
    assert isinstance(pickle.loads(pickle.dumps(QuantityGrader())), Grader)


def test_it_runs_in_worker_processes():
    with Verifier(QuantityGrader(), workers=1) as verifier:
        assert [g.reward for g in verifier.grade([("5000 m", "5 km"), ("5 m", "5 km")])] == [1.0, 0.0]
