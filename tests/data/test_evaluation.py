"""The evaluation loader and what it keeps on disk, on an engine that counts what it is asked."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch

from aer_lightning.data.engines import TransformersEngine
from aer_lightning.data.engines.base import Completion, SamplingParams
from aer_lightning.data.evaluation import EvaluationLoader
from aer_lightning.data.evaluation_cache import (
    EvaluationCache,
    SourceCache,
    engine_facts,
    files_fingerprint,
    prompt_key,
    weights_fingerprint,
)
from aer_lightning.data.prompts import Prompt
from aer_lightning.data.rewards.base import Grade, Outcome
from aer_lightning.errors import ConfigError

SAMPLING = SamplingParams(1.0, 4)


class Doubles:
    """Right if the completion says twice the problem; the tens of an answer do not count in votes."""

    isolated = False

    def check_gold(self, answer):
        return None

    def grade(self, completion, answer):
        return Grade(Outcome.CORRECT if completion == answer else Outcome.WRONG, completion)

    def answer_form(self, extracted):
        return extracted[-1]


class Problems:
    """Stream and source of P problems at once, graded in this process."""

    def __init__(self, size=7, grader=None):
        self.source, self.verifier, self.name, self.usable = self, self, "doubles", size
        self.grader = grader or Doubles()
        self.prompts = [(Prompt(f"p{i}", f"{i}", str(2 * i), label="even" if i % 2 == 0 else "odd"), [i + 1]) for i in range(size)]

    def all(self):
        return self.prompts

    def grade(self, items):
        return [self.grader.grade(*item[:2]) for item in items]


class Doubler:
    """A collector whose sample j of problem i says 2 i + j."""

    def __init__(self, stop_after=None):
        self.calls, self.stop_after = [], stop_after

    def complete(self, prompts, samples, sampling, *, rollout):
        if self.stop_after is not None and len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        self.calls.append([prompt.id for prompt, _ in prompts])
        assert rollout == -1
        texts = [str(2 * (ids[0] - 1) + j) for _, ids in prompts for j in range(samples)]
        return [Completion([1] * (1 + len(t)), [0.0] * (1 + len(t)), "length" if t == "3" else "stop") for t in texts], texts


@dataclass
class Weights:
    value: float = 1.0
    weight_version: int = 0

    def full_weights(self):
        return iter({"a": torch.full((3,), self.value), "b": torch.zeros(2, 2)}.items())


def loader(collector, problems=None, cache=None, rank=0, world_size=1, batch=2):
    return EvaluationLoader(lambda: collector, problems or Problems(), 3, SAMPLING, batch, rank, world_size, cache)


def cache(folder, policy=None, rank=0, **facts):
    return EvaluationCache(folder, {"seed": 1, **facts}, policy or Weights(), rank)


def merged(batches):
    batches = list(batches)
    names = ("labels", "prompt_ids", "outcomes", "answers", "lengths", "truncated", "rows")
    return {name: [x for batch in batches for x in getattr(batch, name)] for name in names}


def test_what_a_batch_holds():
    batches = list(loader(Doubler()))
    assert [len(b.prompt_ids) for b in batches] == [2, 2, 2, 1] and {b.source for b in batches} == {"doubles"}
    second = batches[0].prompt_ids.index("p1")
    assert batches[0].outcomes[second] == ["correct", "wrong", "wrong"]
    assert batches[0].truncated[second] == [False, True, False] and batches[0].labels[second] == "odd"
    last = batches[-1]
    assert last.answers == [["2", "3", "4"]] and last.lengths == [[3, 3, 3]], "answers are in the grader's form"
    row = last.rows[1]
    assert (row["id"], row["sample"], row["extracted"], row["answer"], row["completion"], row["tokens"]) == ("p6", 1, "13", "12", "13", 3)


def test_ranks_share_the_problems_and_have_equally_many_batches():
    loaders = [loader(Doubler(), rank=rank, world_size=2) for rank in range(2)]
    shares = [list(each) for each in loaders]
    assert [len(each) for each in loaders] == [len(share) for share in shares] == [2, 2]
    ids = [[i for batch in share for i in batch.prompt_ids] for share in shares]
    assert ids == [["p0", "p2", "p4", "p6"], ["p1", "p3", "p5"]]


def test_a_stopped_evaluation_goes_on_and_ends_the_same(tmp_path):
    whole = merged(loader(Doubler()))
    first = Doubler(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        list(loader(first, cache=cache(tmp_path)))
    second = Doubler()
    assert merged(loader(second, cache=cache(tmp_path))) == whole
    assert first.calls + second.calls == [["p0", "p1"], ["p2", "p3"], ["p4", "p5"], ["p6"]]

    def never():
        raise AssertionError("nothing is missing, so no engine is needed")

    assert merged(EvaluationLoader(never, Problems(), 3, SAMPLING, 2, cache=cache(tmp_path))) == whole


def test_an_evaluation_of_two_ranks_goes_on_with_one(tmp_path):
    for rank in range(2):
        list(loader(Doubler(), rank=rank, world_size=2, cache=cache(tmp_path, rank=rank)))
    assert sorted(p.stem[-2:] for p in tmp_path.iterdir()) == ["-0", "-1"]
    again = Doubler()
    assert merged(loader(again, cache=cache(tmp_path))) == merged(loader(Doubler())) and again.calls == []


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_line_that_was_cut_off_costs_one_batch(tmp_path, cut):
    list(loader(Doubler(), cache=cache(tmp_path)))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    again = Doubler()
    assert merged(loader(again, cache=cache(tmp_path))) == merged(loader(Doubler()))
    drawn = sum(map(len, again.calls))
    assert drawn == {1: 0, 40: 1, 400: 2}[cut], "the last character is the end of the line"
    rows = [json.loads(line) for line in path.read_bytes().splitlines() if line.endswith(b"}")]
    assert len({row["prompt"] for row in rows if "prompt" in row}) == 7, "what is written after it is readable"


def test_grades_are_not_kept(tmp_path):
    class Lenient(Doubles):
        def grade(self, completion, answer):
            return Grade(Outcome.CORRECT, completion)

    list(loader(Doubler(), cache=cache(tmp_path)))
    again = Doubler()
    graded = merged(loader(again, Problems(grader=Lenient()), cache=cache(tmp_path)))
    assert again.calls == [] and {o for row in graded["outcomes"] for o in row} == {"correct"}


def test_other_weights_options_and_prompts_are_generated_anew(tmp_path):
    def drawn(**changes):
        collector = Doubler()
        problems = changes.pop("problems", None)
        policy = changes.pop("policy", None)
        list(loader(collector, problems, cache=cache(tmp_path, policy, **changes)))
        return sum(map(len, collector.calls))

    assert drawn() == 7 and drawn() == 0
    assert drawn(policy=Weights(weight_version=5)) == 0, "a version is only a number"
    assert drawn(policy=Weights(value=1.0001)) == 7
    assert drawn(seed=2) == 7 and drawn(sampling={"temperature": 0.5}) == 7
    longer = Problems(9)
    assert drawn(problems=longer) == 2
    reworded = Problems()
    reworded.prompts[3] = (reworded.prompts[3][0], [4, 4])
    assert drawn(problems=reworded) == 1
    renamed = Problems()
    renamed.name = "other"
    assert drawn(problems=renamed) == 7


def test_weights_are_hashed_once_a_version_and_anew_after_an_update(tmp_path):
    policy = Weights()
    kept = cache(tmp_path, policy)
    list(loader(Doubler(), cache=kept))
    policy.value, policy.weight_version = 2.0, 1
    trained = Doubler()
    list(loader(trained, cache=kept))
    assert sum(map(len, trained.calls)) == 7


def test_fingerprint_of_weights():
    a, b = torch.arange(4.0), torch.ones(2, 2, dtype=torch.bfloat16)
    known = weights_fingerprint([("a", a), ("b", b)])
    assert weights_fingerprint([("b", b.clone()), ("a", a.clone())]) == known, "the order does not matter"
    nudged = a.clone()
    nudged[2] = torch.nextafter(nudged[2], torch.tensor(9.0))
    others = [
        [("a", nudged), ("b", b)],
        [("b", a), ("a", b)],
        [("a", a.reshape(2, 2)), ("b", b)],
        [("a", a.double()), ("b", b)],
        [("a", a)],
    ]
    assert len({known, *map(weights_fingerprint, others)}) == 6
    assert weights_fingerprint([("a", torch.arange(8.0)[::2] / 2), ("b", b)]) == known, "the layout in memory does not matter"


def test_fingerprint_of_files(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 1}')
    (tmp_path / "model.safetensors").write_bytes(b"0")
    known = files_fingerprint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"1")
    assert files_fingerprint(tmp_path) == known, "weights have a fingerprint of their own"
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 2}')
    assert files_fingerprint(tmp_path) != known


def test_facts_of_an_engine_are_its_options():
    facts = engine_facts(TransformersEngine(max_batch_size=3), torch.device("cpu"))
    assert facts["class"] == "TransformersEngine" and facts["device"] == "cpu" and facts["max_batch_size"] == 3
    assert not any(name.startswith("_") for name in facts) and "weight_version" not in facts


def test_files_say_what_they_hold(tmp_path):
    list(loader(Doubler(), cache=cache(tmp_path)))
    (path,) = tmp_path.iterdir()
    head, *rows = map(json.loads, path.read_text().splitlines())
    assert path.name.startswith("doubles-") and head["depends_on"]["seed"] == 1 and head["depends_on"]["source"] == "doubles"
    assert [row["id"] for row in rows] == [f"p{i}" for i in range(7)]
    kept = SourceCache(tmp_path / path.name.removesuffix("-0.jsonl"), {})
    assert len(kept) == 7 and kept.get(Problems().prompts[2])[1].text == "5"
    assert prompt_key((Prompt("a", "", ""), [1])) != prompt_key((Prompt("b", "", ""), [1]))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data\.init_args\.eval_cache"):
        cache(tmp_path / "file")
