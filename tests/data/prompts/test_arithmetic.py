import random
import sys
from collections import Counter

import pytest

from aer_lightning.data.prompts import ArithmeticPrompts, PromptSource
from aer_lightning.data.prompts.arithmetic import LEVELS
from aer_lightning.errors import ConfigError


def canonical(source: ArithmeticPrompts, count: int) -> set[tuple[tuple[int, ...], int]]:
    return {(tuple(sorted(p.numbers)), p.value) for p in map(source.problem, range(count))}


def test_every_answer_is_the_value_of_its_expression():
    source = ArithmeticPrompts()
    for index in range(2000):
        prompt, problem = source[index], source.problem(index)
        assert int(prompt.answer) == eval(problem.expression) == problem.value >= 0
        assert prompt.text == f"What is {problem.expression}?"
        assert prompt.label == problem.level
        assert [int(word) for word in problem.expression.split() if word.isdigit()] == list(problem.numbers)


def test_levels_are_what_their_names_say():
    sizes = {"one-digit sums": (0, 9, "+"), "two-digit sums": (10, 99, "+"), "two-digit products": (10, 99, "*")}
    for level in LEVELS:
        problems = [ArithmeticPrompts(levels=[level]).problem(index) for index in range(400)]
        assert {p.level for p in problems} == {level}
        if level == "two operations":
            assert {sum(c in "+-*" for c in p.expression) for p in problems} == {2}
            assert {c for p in problems for c in p.expression if c in "+-*"} == set("+-*")
            assert {n for p in problems for n in p.numbers} <= set(range(2, 20))
        else:
            low, high, operator = sizes[level]
            assert all(p.expression == f"{p.numbers[0]} {operator} {p.numbers[1]}" for p in problems)
            numbers = [n for p in problems for n in p.numbers]
            assert (min(numbers), max(numbers)) == (low, high)


def test_the_value_is_paid_and_the_question_is_not():
    source = ArithmeticPrompts(grader=None)
    for index in range(8):
        prompt = source[index]
        assert source.grader.check_gold(prompt.answer) is None
        assert source.grader.grade(f"The answer is {prompt.answer}.", prompt.answer, prompt.content).reward == 1
        assert source.grader.grade(f" {prompt.extra['problem']}", prompt.answer, prompt.content).reward == 0


def test_a_prompt_depends_on_its_index_alone():
    in_order = [ArithmeticPrompts(seed=3)[index] for index in range(100)]
    indices = list(range(100))
    random.Random(0).shuffle(indices)
    fresh = ArithmeticPrompts(seed=3)
    shuffled = {index: fresh[index] for index in indices}
    assert [shuffled[index] for index in range(100)] == in_order
    assert isinstance(fresh, PromptSource)
    assert len(fresh) == sys.maxsize
    fresh[10**15]
    with pytest.raises(IndexError):
        fresh[-1]


def test_prompts_stay_the_same_for_ever():
    source = ArithmeticPrompts()
    assert [(source[i].id, source[i].text) for i in (0, 1, 2, 3)] == [
        ("arithmetic/train/0/0", "What is 6 + 7?"),
        ("arithmetic/train/0/1", "What is 42 + 21?"),
        ("arithmetic/train/0/2", "What is 42 * 28?"),
        ("arithmetic/train/0/3", "What is 2 * 6 * 2?"),
    ]


def test_splits_are_disjoint_whatever_the_seeds_and_the_order_of_the_operands():
    train = canonical(ArithmeticPrompts(), 3000) | canonical(ArithmeticPrompts(seed=1), 3000)
    validation = canonical(ArithmeticPrompts("validation"), 3000) | canonical(ArithmeticPrompts("validation", seed=1), 3000)
    assert train.isdisjoint(validation)
    assert len(validation) > 300
    sums = ArithmeticPrompts("validation", levels=["one-digit sums"])
    assert len(canonical(sums, 200)) >= 3


@pytest.mark.parametrize("mix", [(1, 1), (3, 1)])
def test_every_window_has_the_configured_mix(mix):
    source = ArithmeticPrompts(levels=LEVELS[:2], mix=mix)
    labels = [source[index].label for index in range(4 * sum(mix))]
    for start in range(3 * sum(mix)):
        window = Counter(labels[start : start + sum(mix)])
        assert [window[label] for label in source.labels] == list(mix)


def test_a_source_with_a_size_holds_distinct_problems(monkeypatch):
    source = ArithmeticPrompts("validation", levels=LEVELS[1:], size=60)
    assert len({source.problem(index).canonical for index in range(60)}) == len(source) == 60
    monkeypatch.setattr("aer_lightning.data.prompts.generated.MAX_ATTEMPTS", 2000)
    with pytest.raises(ConfigError, match=r"prompts.size: only \d+ distinct validation problems found, 60 asked for"):
        ArithmeticPrompts("validation", levels=LEVELS[:1], size=60).load()


def test_options_change_the_prompts():
    def texts(**options):
        return [ArithmeticPrompts(**options)[index].content for index in range(20)]

    plain = texts()
    assert texts(seed=1) != plain
    assert texts(split="validation") != plain
    assert texts(template="{problem} =")[0] == plain[0].removeprefix("What is ").removesuffix("?") + " ="
    assert texts(chat=True) == plain
    assert ArithmeticPrompts(chat=True)[0].messages == [{"role": "user", "content": plain[0]}]
    assert ArithmeticPrompts(name="sums")[0].id.startswith("sums/")
    grader = object()
    assert ArithmeticPrompts(grader=grader).grader is grader


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "prompts.split"),
        ({"levels": ()}, "prompts.levels"),
        ({"levels": ("sums",)}, "prompts.levels"),
        ({"levels": LEVELS[:2], "mix": (1,)}, "prompts.mix"),
        ({"mix": (1, 0, 1, 1)}, "prompts.mix"),
        ({"size": 0}, "prompts.size"),
        ({"template": "What?"}, "prompts.template"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ArithmeticPrompts(**options)
