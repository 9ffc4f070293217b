import math
import pickle
import threading
import time

import pytest

from aer_lightning.data.rewards import Grade, MathGrader, Outcome, Reward, RewardRequest, Rewards, Verifier
from aer_lightning.errors import ConfigError


class Scores:
    """Gives out what it is told."""

    def __init__(self, *scores):
        self.given = scores

    def score(self, requests):
        return self.given[: len(requests)]


class Late:
    def score(self, requests):
        time.sleep(60)
        return [1.0] * len(requests)


class Broken:
    def score(self, requests):
        raise RuntimeError("no such model")


def sleeps_on_demand(completion):
    if completion == "sleep":
        time.sleep(60)
    return len(completion)


REQUESTS = [
    RewardRequest("a", "1", "p", Grade(Outcome.CORRECT, "a", "why", 3.0)),
    RewardRequest("b", "1", "p", Grade(Outcome.WRONG)),
]
CORRECT, FORMAT = {"class_path": "Correctness"}, {"class_path": "Format", "init_args": {"pattern": "a|b"}, "weight": 0.2}


def test_the_weighted_sum_is_the_score_and_the_outcome_stays():
    first, second = Rewards.from_config([CORRECT, FORMAT, {"class_path": f"{__name__}.sleeps_on_demand", "weight": -0.1}]).apply(REQUESTS)
    assert (first.outcome, second.outcome) == (Outcome.CORRECT, Outcome.WRONG)
    assert first.parts == {"correctness": 1.0, "format": 1.0, "sleeps_on_demand": 1.0}
    assert (first.reward, second.reward) == (pytest.approx(1.1), pytest.approx(0.1))
    assert (first.extracted, first.reason, first.ms) == ("a", "why", 3.0)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (Late(), "within 0.2 s"),
        (Broken(), "no such model"),
        (Scores(1.0), "1 scores for 2 completions"),
        (Scores(1.0, math.nan), "no finite number"),
        (Scores(1.0, "x"), "no finite number"),
    ],
)
def test_what_fails_or_is_late_counts_as_nothing_and_is_said(function, reason):
    rewards = Rewards([Reward("odd", function, timeout_s=0.2), Reward("good", Scores(0.5, 0.5))])
    started = time.monotonic()
    with pytest.warns(UserWarning, match=f"reward odd: .*{reason}"):
        grades = rewards.apply(REQUESTS)
    assert time.monotonic() - started < 10
    assert grades[1].reward == 0.5 and grades[1].parts == {"odd": 0.0, "good": 0.5}


def test_a_reward_that_hangs_is_not_given_another_batch():
    release = threading.Event()

    class Hangs:
        calls = 0

        def score(self, requests):
            Hangs.calls += 1
            release.wait(30)
            return [1.0] * len(requests)

    rewards = Rewards([Reward("slow", Hangs(), timeout_s=0.1)])
    with pytest.warns(UserWarning):
        rewards.apply(REQUESTS)
    with pytest.warns(UserWarning, match="still busy"):
        rewards.apply(REQUESTS)
    release.set()
    assert Hangs.calls == 1


def test_a_reward_in_worker_processes_is_killed_for_one_completion_only():
    rewards = Rewards.from_config([{"class_path": f"{__name__}.sleeps_on_demand", "process": True, "timeout_s": 1.0}])
    requests = [RewardRequest(text, "1", "p", Grade(Outcome.WRONG)) for text in ("abc", "sleep", "ab")]
    try:
        with pytest.warns(UserWarning, match="1 of 3 .*no verdict within 1 s"):
            grades = rewards.apply(requests)
    finally:
        rewards.close()
    assert [g.reward for g in grades] == [3.0, 0.0, 2.0]


def test_the_verifier_scores_what_it_has_graded():
    rewards = Rewards.from_config([CORRECT, {"class_path": "Length", "init_args": {"limit": 10}, "weight": 0.5}])
    with Verifier(MathGrader(), workers=1, rewards=rewards) as verifier:
        grades = verifier.grade([("2", "2", "1 + 1", 5), ("3", "2", "1 + 1", 10), ("2", "2")])
        assert [g.reward for g in grades] == [1.25, 0.0, 1.45]
        assert [g.outcome for g in grades] == [Outcome.CORRECT, Outcome.WRONG, Outcome.CORRECT]
        assert verifier.reward_names == ("correctness", "length")
        assert pickle.loads(pickle.dumps(Verifier(MathGrader(), workers=1))).reward_names == ()


class Partial:
    isolated = True

    def check_gold(self, answer):
        return None

    def grade(self, completion, answer):
        return Grade(Outcome.WRONG, completion, score=float(completion))


def test_a_graders_own_score_travels_through_the_worker_processes():
    with Verifier(Partial(), workers=1) as verifier:
        grades = verifier.grade([("0.3", "1"), ("-2", "1"), ("nan", "1")])
    assert [g.reward for g in grades] == [0.3, -2.0, 0.0]
    assert [g.outcome for g in grades] == [Outcome.WRONG, Outcome.WRONG, Outcome.ERROR]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "empty"),
        ([{"weight": 1}], r"rewards\[0\].class_path"),
        ([{"class_path": "Nonsense"}], "there is no reward Nonsense"),
        ([{"class_path": "absent.module.f"}], "there is no absent.module.f"),
        ([CORRECT, CORRECT], "named the same"),
        ([CORRECT | {"weight": "much"}], "must be numbers"),
        ([CORRECT | {"weight": math.inf}], "no finite number"),
        ([CORRECT | {"timeout_s": 0}], "timeout_s"),
        ([CORRECT | {"wieght": 1}], "unknown key 'wieght'"),
        ([{"class_path": "Length"}], "limit"),
        ([{"class_path": f"{__name__}.Partial"}], "score"),
        ([{"class_path": f"{__name__}.sleeps_on_demand", "init_args": {"a": 1}}], "takes none"),
    ],
)
def test_a_bad_entry_is_named(entries, message):
    with pytest.raises(ConfigError, match=message):
        Rewards.from_config(entries)


def test_a_score_is_a_finite_number():
    with pytest.raises(ValueError, match="finite"):
        Grade(Outcome.WRONG, score=math.nan)
    assert Grade(Outcome.CORRECT, score=0.3).reward == 0.3
