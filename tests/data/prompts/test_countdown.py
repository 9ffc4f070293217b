import ast
import random
import sys
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from aer_lightning.data.prompts import CountdownPrompts, PromptSource
from aer_lightning.data.prompts.generated import VALIDATION_PART, CounterRandom
from aer_lightning.errors import ConfigError


def python_value(text):
    """Value and intermediate values of an expression, by Python's own parser."""
    values = []

    def walk(node):
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        left, right = walk(node.left), walk(node.right)
        match node.op:
            case ast.Add():
                values.append(left + right)
            case ast.Sub():
                values.append(left - right)
            case ast.Mult():
                values.append(left * right)
            case ast.Div():
                values.append(left / right)
        return values[-1]

    return walk(ast.parse(text, mode="eval").body), values


def numbers_in(text):
    return [node.value for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Constant)]


def test_every_problem_has_the_solution_that_it_carries():
    source = CountdownPrompts(max_number=13, max_target=50)
    for i in range(1500):
        prompt = source[i]
        numbers, target = prompt.answer["numbers"], prompt.answer["target"]
        value, steps = python_value(prompt.extra["solution"])
        assert value == target <= 50
        assert sorted(numbers_in(prompt.extra["solution"])) == sorted(numbers)
        assert all(1 <= n <= 13 for n in numbers)
        assert all(step > 0 and step.denominator == 1 for step in steps)
        assert prompt.text == " ".join(map(str, numbers)) + f"={target}:"
        assert prompt.label == f"{len(numbers)} numbers"
        assert source.grader.grade(prompt.extra["solution"], prompt.answer).reward == 1
        assert source.grader.check_gold(prompt.answer) is None


def test_all_operators_and_parentheses_occur():
    source = CountdownPrompts()
    used = Counter(c for i in range(600) for c in source[i].extra["solution"])
    assert min(used[c] for c in "+-*/()") > 20


def test_a_prompt_depends_on_its_index_alone():
    source = CountdownPrompts(seed=3)
    indices = list(range(200))
    in_order = [source[i] for i in indices]
    random.Random(0).shuffle(indices)
    fresh = CountdownPrompts(seed=3)
    shuffled = {i: fresh[i] for i in indices}
    assert [shuffled[i] for i in range(200)] == in_order


def test_global_random_state_is_neither_read_nor_moved():
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = [CountdownPrompts()[i] for i in range(10)]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    random.seed(2)
    np.random.seed(2)
    assert [CountdownPrompts()[i] for i in range(10)] == first


def test_prompts_stay_the_same_for_ever():
    # A change here changes the meaning of every seed and checkpoint, and the shipped model's training data.
    source = CountdownPrompts()
    assert [(source[i].id, source[i].text) for i in (0, 1, 2, 10**12)] == [
        ("countdown/train/0/0", "14 2=7:"),
        ("countdown/train/0/1", "7 1 17=9:"),
        ("countdown/train/0/2", "14 16 7 7=16:"),
        ("countdown/train/0/1000000000000", "1 13 21=35:"),
    ]


@pytest.mark.parametrize("mix", [(1, 1, 1), (1, 2, 1), (3, 1, 5)])
def test_every_window_of_a_block_has_the_configured_mix(mix):
    source = CountdownPrompts(numbers=(2, 3, 4), mix=mix)
    block = sum(mix)
    labels = [source[i].label for i in range(4 * block)]
    for start in range(3 * block):
        window = Counter(labels[start : start + block])
        assert [window[label] for label in source.labels] == list(mix)


def test_splits_are_disjoint_whatever_the_seeds():
    def canonical(split, seed):
        source = CountdownPrompts(split, seed=seed)
        return [(tuple(sorted(p.numbers)), p.target) for p in map(source.problem, range(1500))]

    train, validation = canonical("train", 0) + canonical("train", 1), canonical("validation", 0) + canonical("validation", 1)
    assert set(train).isdisjoint(validation)
    assert len(set(validation)) > 300


def test_the_validation_split_is_its_part_of_all_problems():
    from aer_lightning.data.prompts.countdown import draw_problem

    rng = CounterRandom("share")
    problems = {p.canonical: p for p in (draw_problem(rng, 4, 25, 99) for _ in range(8000)) if p}
    share = sum(p.split == "validation" for p in problems.values()) / len(problems)
    assert abs(share - 1 / VALIDATION_PART) < 0.02


def test_a_source_with_a_size_holds_distinct_problems():
    source = CountdownPrompts("validation", size=150)
    assert len(source) == 150
    problems = [(tuple(sorted(source[i].answer["numbers"])), source[i].answer["target"]) for i in range(150)]
    assert len(set(problems)) == 150
    assert len({source[i].id for i in range(150)}) == 150
    again = CountdownPrompts("validation", size=150)
    assert again[149] == source[149]
    with pytest.raises(IndexError):
        source[150]


def test_an_endless_source():
    source = CountdownPrompts()
    assert isinstance(source, PromptSource)
    assert len(source) == sys.maxsize
    assert source.labels == ("2 numbers", "3 numbers", "4 numbers")
    source[10**15]
    with pytest.raises(IndexError):
        source[-1]


def test_options_change_the_problems():
    def texts(**options):
        source = CountdownPrompts(**options)
        return [source[i].text for i in range(20)]

    plain = texts()
    assert texts(seed=1) != plain
    assert texts(split="validation") != plain
    assert texts(max_number=9) != plain
    assert texts(max_target=20) != plain
    assert {len(CountdownPrompts(numbers=(5,))[i].answer["numbers"]) for i in range(20)} == {5}
    assert CountdownPrompts(name="game")[0].id.startswith("game/")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "prompts.split"),
        ({"numbers": ()}, "prompts.numbers"),
        ({"numbers": (1, 2)}, "prompts.numbers"),
        ({"numbers": (2, 2)}, "prompts.numbers"),
        ({"numbers": (2, 3), "mix": (1,)}, "prompts.mix"),
        ({"mix": (1, 0, 1)}, "prompts.mix"),
        ({"mix": (0.5, 0.25, 0.25)}, "prompts.mix"),
        ({"size": 0}, "prompts.size"),
        ({"max_number": 1}, "prompts.max_number"),
        ({"max_target": 0}, "max_target"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        CountdownPrompts(**options)


def test_more_problems_than_there_are(monkeypatch):
    monkeypatch.setattr("aer_lightning.data.prompts.generated.MAX_ATTEMPTS", 3000)
    with pytest.raises(ConfigError, match=r"prompts.size: only \d+ distinct train problems found, 50 asked for"):
        CountdownPrompts(numbers=(2,), max_number=3, size=50).load()
    with pytest.raises(ConfigError, match="no validation problem with 2 numbers"):
        CountdownPrompts("validation", numbers=(2,), max_number=2, max_target=1)[0]
