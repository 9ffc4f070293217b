import sys

import pytest

from aer_lightning.data.prompts.base import Prompt
from aer_lightning.data.rewards import Verifier
from aer_lightning.data.rewards.base import Grade, Outcome
from aer_lightning.data.stream import PromptStream, encode
from aer_lightning.errors import ConfigError, DataError


class Characters:
    """A tokenizer of characters, with or without a chat template."""

    chat_template = None

    def __call__(self, text):
        return {"input_ids": [ord(c) for c in text]}

    def apply_chat_template(self, messages, **_):
        return [0] + [ord(c) for m in messages for c in m["content"]] + [1]


class Same:
    isolated = False

    def check_gold(self, answer):
        return "empty" if answer == "" else None

    def grade(self, completion, answer):
        return Grade(Outcome.CORRECT if completion == answer else Outcome.WRONG)


class Source:
    name, labels, grader = "toy", ("",), Same()

    def __init__(self, texts, endless=False):
        self.texts, self.endless = texts, endless

    def load(self):
        pass

    def __len__(self):
        return sys.maxsize if self.endless else len(self.texts)

    def __getitem__(self, i):
        text, answer = self.texts[i % len(self.texts)]
        return Prompt(f"p{i}", text, answer)


def stream(source, **kwargs):
    made = PromptStream(source, Characters(), Verifier(source.grader), **({"max_prompt_tokens": 4} | kwargs))
    made.load()
    return made


TEXTS = [("a", "1"), ("bb", ""), ("ccccc", "3"), ("dd", "4"), ("e", "5")]


def test_bad_golds_and_long_prompts_are_dropped_and_counted():
    s = stream(Source(TEXTS), shuffle=False)
    assert s.usable == 3 and s.bad_gold == {"p1": "empty"} and s.too_long == {"p2"}
    assert [p.id for p, _ in s.all()] == ["p0", "p3", "p4"]
    assert [p.id for p, _ in s.take(2)] == ["p0", "p3"] and s.cursor == 2
    assert [p.id for p, _ in s.take(2)] == ["p4", "p0"], "a new pass begins"


def test_shuffling_visits_each_prompt_once_a_pass_in_a_seeded_order():
    texts = [(chr(97 + i), "1") for i in range(20)]
    orders = {seed: [p.id for p, _ in stream(Source(texts), seed=seed).take(20)] for seed in (1, 2)}
    assert sorted(orders[1]) == sorted(orders[2]) and orders[1] != orders[2] != [f"p{i}" for i in range(20)]
    s = stream(Source(texts), seed=1)
    s.cursor = 7
    assert [p.id for p, _ in s.take(5)] == orders[1][7:12], "the cursor is the whole state"


def test_shuffling_keeps_the_mix_of_a_stratified_source_unless_prompts_are_missing():
    texts = [("abc"[i % 3], "1") for i in range(30)]
    source = Source(texts)
    source.period = 3
    s = stream(source)
    order = [p for p, _ in [*s.take(30), *s.take(30)]]
    assert "".join(p.text for p in order) == "abc" * 20
    assert sorted(p.id for p in order[:30]) == sorted(p.id for p in order[30:]) and order[:30] != order[30:]
    broken = Source([*texts[:4], ("b", ""), *texts[5:]])
    broken.period = 3
    assert len({p.id for p, _ in stream(broken).take(29)}) == 29


def test_a_generator_is_read_in_its_order_and_drops_what_is_too_long():
    s = stream(Source(TEXTS, endless=True))
    assert [p.id for p, _ in s.take(5)] == ["p0", "p1", "p3", "p4", "p5"] and s.cursor == 6 and s.too_long == {"p2"}
    with pytest.raises(ConfigError, match="no end"):
        s.all()


def test_a_source_too_small_too_long_or_without_use_is_refused():
    with pytest.raises(ConfigError, match=r"prompts_per_rollout: 4 prompts asked of toy, which has 3"):
        stream(Source(TEXTS)).take(4)
    with pytest.raises(DataError, match=r"none of 1 prompts can be used \(1 bad gold"):
        stream(Source([("a", "")]))
    with pytest.raises(ConfigError, match="max_prompt_tokens"):
        stream(Source([("aaaaaaaa", "1")], endless=True)).take(1)


def test_messages_go_through_the_chat_template_and_need_one():
    prompt = Prompt("p", None, "1", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(DataError, match="chat template"):
        encode(prompt, Characters())
    tokenizer = Characters()
    tokenizer.chat_template = "x"
    assert encode(prompt, tokenizer) == [0, ord("h"), ord("i"), 1]
    with pytest.raises(DataError, match="encodes to no tokens"):
        encode(Prompt("p", "", "1"), tokenizer)


def test_prepared_prompts_are_those_that_are_taken():
    """Encoding ahead moves nothing: neither the cursor nor what comes."""
    texts = [(str(i), "a") for i in range(5)]
    plain, ahead = stream(Source(texts)), stream(Source(texts))
    first = ahead.take(3)
    ahead.prepare(4)
    assert ahead.cursor == 3
    assert first + ahead.take(5) == plain.take(3) + plain.take(5) and ahead.cursor == plain.cursor
