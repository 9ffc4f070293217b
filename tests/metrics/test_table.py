"""Every figure of an evaluation against arithmetic on its completions."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from aer_lightning.errors import ConfigError
from aer_lightning.metrics.table import EvaluationTable, SourceTable
from aer_lightning.rollout import EvaluationBatch

OUTCOMES = ("correct", "wrong", "unparsed", "timeout", "error", "bad_gold")


def batches(seed, problems=13, samples=6, size=4, source="s"):
    """Random verdicts; equal answers have equal verdicts, as with a real grader."""
    rng = random.Random(seed)
    found = []
    for start in range(0, problems, size):
        batch = EvaluationBatch(source)
        for i in range(start, min(start + size, problems)):
            answers = [rng.choice(["1", "2", "3", None]) for _ in range(samples)]
            verdict = {"1": rng.choice(["correct", "wrong"]), "2": "wrong", "3": "timeout", None: "unparsed"}
            batch.prompt_ids.append(f"p{i}")
            batch.labels.append("hard" if i % 3 else "easy")
            batch.answers.append(answers)
            batch.outcomes.append([verdict[a] for a in answers])
            batch.lengths.append([rng.randrange(1, 9) for _ in answers])
            batch.truncated.append([rng.random() < 0.2 for _ in answers])
        found.append(batch)
    return found


def problems_of(found):
    names = ("labels", "outcomes", "answers", "lengths", "truncated")
    return [dict(zip(names, values, strict=True)) for b in found for values in zip(*(getattr(b, n) for n in names), strict=True)]


def mean_and_error(values):
    values = [v for v in values if v is not None]
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def best_of(outcomes, k):
    """pass@k by looking at every choice of k samples."""
    return statistics.fmean("correct" in choice for choice in itertools.combinations(outcomes, k))


def vote(outcomes, answers):
    given = [a for a in answers if a is not None]
    if not given:
        return 0.0
    winners = statistics.multimode(given)
    right = {a for a, o in zip(answers, outcomes, strict=True) if o == "correct"}
    return sum(w in right for w in winners) / len(winners)


def test_every_figure(seed=0):
    found = batches(seed)
    table = SourceTable(["easy", "hard"], [1, 3, 6], 6)
    for batch in found:
        table.update(batch)
    table.update(EvaluationBatch("s"))
    rows = problems_of(found)

    def of(figure):
        return mean_and_error([figure(r) for r in rows])

    expected = {f"pass@{k}": of(lambda r, k=k: best_of(r["outcomes"], k)) for k in (1, 3, 6)}
    expected["maj@6"] = of(lambda r: vote(r["outcomes"], r["answers"]))
    expected["maj@3"] = of(lambda r: (vote(r["outcomes"][:3], r["answers"][:3]) + vote(r["outcomes"][3:], r["answers"][3:])) / 2)

    def share(answers):
        return len(set(answers)) / len(answers) if answers else None

    expected["distinct"] = of(lambda r: share([a for a in r["answers"] if a is not None]))
    expected["distinct_correct"] = of(lambda r: share([a for a, o in zip(r["answers"], r["outcomes"], strict=True) if o == "correct"]))
    expected["response_length"] = of(lambda r: statistics.fmean(r["lengths"]))
    expected["truncated"] = of(lambda r: statistics.fmean(r["truncated"]))
    expected |= {name: of(lambda r, name=name: r["outcomes"].count(name) / 6) for name in OUTCOMES}
    for label, k in itertools.product(("easy", "hard"), (1, 3, 6)):
        expected[f"{label}/pass@{k}"] = mean_and_error([best_of(r["outcomes"], k) for r in rows if r["labels"] == label])
    flat = {name: mean for name, (mean, _) in expected.items()} | {f"{name}_se": error for name, (_, error) in expected.items()}
    assert table.compute() == pytest.approx(flat | {"reward": flat["pass@1"]}, abs=1e-6)
    assert 0 < flat["pass@1"] < flat["pass@3"] < flat["pass@6"] < 1, "the case is one that tells them apart"


def test_figures_over_no_problem_are_left_out():
    table = SourceTable([], [1], 2)
    batch = EvaluationBatch("s", [""], ["p"], [["wrong", "unparsed"]], [["7", None]], [[3, 4]], [[False, True]])
    table.update(batch)
    values = table.compute()
    assert "distinct_correct" not in values and not any(name.endswith("_se") for name in values), "one problem has no error"
    assert (values["pass@1"], values["maj@2"], values["distinct"], values["truncated"]) == (0.0, 0.0, 1.0, 0.5)


def test_a_majority_takes_three_or_all():
    assert set(SourceTable([], [1, 2, 4, 8], 8).majority) == {4, 8}
    assert set(SourceTable([], [1, 2], 2).majority) == {2}


def test_more_tries_than_samples_is_an_error():
    table = SourceTable([], [1, 7], 6)
    with pytest.raises(ConfigError, match="pass@7"):
        table.update(batches(0)[0])


def test_sources_do_not_mix():
    table = EvaluationTable([("a", ()), ("b", ("x",))], [1], 6)
    for batch in (*batches(1, source="a"), *batches(2, source="b")):
        table.update(batch)
    values = table.compute("test")
    for seed, source in ((1, "a"), (2, "b")):
        alone = SourceTable([], [1], 6)
        for batch in batches(seed):
            alone.update(batch)
        assert {k.removeprefix(f"test/{source}/"): v for k, v in values.items() if k.startswith(f"test/{source}/")} == alone.compute()
    assert values["test/a/pass@1"] != values["test/b/pass@1"]


def test_the_reward_is_the_mean_score_and_accuracy_stays_the_share_of_correct_answers():
    table = SourceTable([], [1], 2)
    batch = EvaluationBatch("s", [""], ["p"], [["correct", "wrong"]], [["1", None]], [[1, 1]], [[False, False]], [[1.0, 0.3]])
    table.update(batch)
    values = table.compute()
    assert values["reward"] == pytest.approx(0.65)
    assert values["pass@1"] == values["correct"] == 0.5
