"""A line per claim: intervals against numbers worked out by hand, and each of the three verdicts."""

import math

import pytest

from aer_lightning.reporting.statistics import Estimate, estimate
from aer_lightning.study.findings import Claims
from aer_lightning.study.verdicts import verdict, verdicts


def row(method, seed, one, many, last=0.5, **more):
    return {
        "method": method,
        "seed": seed,
        "toy/pass@1": one,
        "toy/pass@16": many,
        "last_entropy": last,
        "anchor": 0.5,
        "target": 0.25,
    } | more


@pytest.fixture
def claims():
    parts = {"method": "aer", "collapse": "grpo", "baselines": ["grpo", "dapo", "skywork"], "targets": ["aer"], "robustness": {}}
    return Claims.of(parts | {"components": {"no_anchor": "anchor"}, "ks": [1, 16]}, "plan.yaml")


@pytest.mark.parametrize(
    ("mean", "error", "expected"),
    [
        (0.1, 0.02, "supported"),
        (-0.1, 0.02, "not supported"),
        (0.1, 0.03, "undecided"),
        (-0.1, 0.03, "undecided"),
        (0.1, math.nan, "undecided"),
    ],
)
def test_three_seeds_take_four_standard_errors(mean, error, expected):
    """t with two degrees of freedom is 4.303: .1 is 5 errors of .02, and 3.3 of .03."""
    seeds = 1 if math.isnan(error) else 3
    assert verdict(Estimate(mean, error, seeds), 0.0, math.inf) == expected


def test_a_value_has_to_lie_within_both_ends():
    assert verdict(Estimate(1.0, 0.01, 5), 0.85, 1.15) == "supported"
    assert verdict(Estimate(1.3, 0.01, 5), 0.85, 1.15) == "not supported"
    assert verdict(Estimate(1.1, 0.05, 5), 0.85, 1.15) == "undecided"


@pytest.mark.parametrize(("seeds", "t"), [(2, 12.706), (5, 2.776), (11, 2.228), (12, 2.201), (31, 2.042), (200, 1.972)])
def test_the_interval_is_students(seeds, t):
    low, high = Estimate(2.0, 0.1, seeds).interval
    assert (high - 2.0) / 0.1 == pytest.approx(t, abs=0.003) and low == pytest.approx(4.0 - high)


def test_each_claim_is_a_line(claims):
    rows = [
        *(row("aer", seed, 0.5, 0.80 + 0.001 * seed) for seed in (1, 2, 3)),
        *(row("grpo", seed, 0.5, 0.70 + 0.002 * seed, last=0.2 + 0.01 * seed, **{"initial_pass@16": 0.81}) for seed in (1, 2, 3)),
        *(row("dapo", seed, 0.6, 0.70) for seed in (1, 2, 3)),
        *(row("no_anchor", seed, 0.5, 0.6 + 0.1 * seed) for seed in (1, 2, 3)),
    ]
    found = verdicts(rows, claims)
    lines = {line[0]: line[1:] for line in found.rows}
    assert lines["grpo loses more than half of its entropy (last H / H_0 below 0.5)"] == ["0.22", "0.20 to 0.24", "3", "supported"]
    assert lines["aer ends within 15 % of its target (last H / H*)"] == ["1.00", "1.00 to 1.00", "3", "supported"]
    assert lines["aer's pass@16 is above the initial policy's"][-1] == "not supported"
    assert lines["aer's pass@16 is above that of grpo"] == ["+0.098", "+0.096 to +0.100", "3", "supported"]
    assert lines["aer's pass@16 is above that of dapo"][-1] == "supported, at a lower pass@1"
    assert lines["pass@16 is higher with the anchor"][-1] == "undecided"
    assert len(lines) == 6, "skywork has no runs"


def test_without_runs_there_is_nothing_to_say(claims):
    assert verdicts([], claims) is None
    assert all(map(math.isnan, estimate([]).interval))
