import warnings

import pytest

from aer_lightning.data.rewards import Grade, Outcome, OutcomeLimits, VerifierOutcomeError, outcome_counts, outcome_rates
from aer_lightning.errors import ConfigError, UserError


def grades(**counts):
    return [Grade(Outcome(name), None, f"because {name}") for name, count in counts.items() for _ in range(count)]


def test_counts_and_rates_name_every_outcome():
    batch = grades(correct=3, wrong=4, timeout=1)
    assert outcome_counts(batch) == {"correct": 3, "wrong": 4, "unparsed": 0, "timeout": 1, "error": 0, "bad_gold": 0}
    assert outcome_rates(batch) == {"correct": 3 / 8, "wrong": 0.5, "unparsed": 0, "timeout": 1 / 8, "error": 0, "bad_gold": 0}
    assert set(outcome_rates([]).values()) == {0.0}


@pytest.mark.parametrize("name", ["timeout", "error", "bad_gold"])
def test_too_many_of_one_outcome_stop_or_warn(name):
    limit = {f"max_{name}": 0.2}
    at, above = grades(correct=8, **{name: 2}), grades(correct=7, **{name: 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert OutcomeLimits(**limit, action="warn").check(at) == []
    with pytest.warns(UserWarning, match=f"30.0% of 10 answers are {name}.*max_{name}.*because {name}"):
        assert len(OutcomeLimits(**limit, action="warn").check(above)) == 1
    with pytest.raises(VerifierOutcomeError, match=f"max_{name}") as caught:
        OutcomeLimits(**limit, action="stop").check(above)
    assert isinstance(caught.value, UserError)
    assert OutcomeLimits(**{f"max_{name}": 1.0}, action="stop").check(above) == []


@pytest.mark.parametrize("action", ["warn", "stop"])
@pytest.mark.parametrize(
    ("limit", "counts", "said"),
    [
        (0.02, {"timeout": 4}, "100.0% of 4 answers are timeout"),
        (1.0, {"bad_gold": 4}, "none of 4 answers got an honest verdict; for example: because bad_gold"),
        (0.6, {"timeout": 2, "error": 2}, "none of 4 answers got an honest verdict; for example: because timeout"),
    ],
)
def test_a_rollout_without_one_honest_verdict_stops_whatever_the_limits(action, limit, counts, said):
    limits = OutcomeLimits(limit, limit, limit, action)
    with pytest.raises(VerifierOutcomeError, match=said):
        limits.check(grades(**counts))
    if limit >= 0.6:
        assert limits.check(grades(**counts, wrong=1)) == []


def test_wrong_and_unparsed_answers_are_no_fault_of_the_verifier():
    assert OutcomeLimits(0, 0, 0, "stop").check(grades(wrong=5, unparsed=5)) == []
    assert OutcomeLimits(0, 0, 0, "stop").check([]) == []


def test_impossible_limits_are_refused():
    with pytest.raises(ConfigError, match="max_error"):
        OutcomeLimits(max_error=1.5)
    with pytest.raises(ConfigError, match="action"):
        OutcomeLimits(action="shout")
