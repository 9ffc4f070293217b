import json
import sys

import pytest

from aer_lightning.data.prompts import HubPrompts, PromptSource
from aer_lightning.data.rewards.countdown import CountdownGrader
from aer_lightning.errors import ConfigError, DataError

datasets = pytest.importorskip("datasets")

ROWS = [{"question": f"How many is {i}?", "answer": f"It is {i}.\n#### {i}", "topic": "even" if i % 2 == 0 else "odd"} for i in range(5)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "sums"
    folder.mkdir()
    for split, rows in {"train": ROWS[:3], "test": ROWS[3:]}.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_columns_of_a_local_data_set(folder):
    source = HubPrompts(
        str(folder),
        split="test",
        template="{problem} Answer:",
        grader=CountdownGrader(),
        problem_field="question",
        answer_after="####",
        label_field="topic",
    )
    assert isinstance(source, PromptSource)
    assert (len(source), source.name, source.labels) == (2, "sums", ("odd", "even"))
    assert [(p.id, p.text, p.answer) for p in (source[0], source[1])] == [
        ("sums/0", "How many is 3? Answer:", "3"),
        ("sums/1", "How many is 4? Answer:", "4"),
    ]
    assert len(HubPrompts(str(folder), split="train", problem_field="question")) == 3


def test_a_missing_column_or_split_is_named(folder):
    with pytest.raises(DataError, match=r'prompts\.path: .*sums \[train\] row 0 has no field "problem"; it has question, answer, topic'):
        HubPrompts(str(folder)).load()
    with pytest.raises(DataError, match=r"prompts\.path: cannot load .*sums \[dev\]: .*dev"):
        HubPrompts(str(folder), split="dev").load()
    with pytest.raises(DataError, match=r"prompts\.path: cannot load .*nowhere"):
        HubPrompts(str(folder / "nowhere")).load()


def test_every_option_reaches_datasets(monkeypatch):
    calls = []

    def load_dataset(path, **options):
        calls.append((path, options))
        return [{"problem": "x", "answer": 1, "key": "k"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = HubPrompts("some/set", config="main", split="test[:10]", revision="abc", id_field="key", name="mine")
    assert (source[0].id, source.name) == ("k", "mine")
    source.load()
    assert calls == [("some/set", {"name": "main", "split": "test[:10]", "revision": "abc", "streaming": False})]


def test_without_datasets_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    source = HubPrompts("some/set")
    with pytest.raises(ConfigError, match=r'pip install "aer-lightning\[hub\]"'):
        source.load()
