"""Presets of benchmarks: local copies, and the columns of the hub's data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aer_lightning.data.prompts import AIME24, AIME25, AMC23, GSM8K, MATH500, PromptSource
from aer_lightning.data.prompts.benchmarks import BOXED
from aer_lightning.data.rewards import MathGrader
from aer_lightning.errors import ConfigError, DataError

SHARED = Path(__file__).parents[4] / "shared" / "data"
PRESETS = (AIME24, AIME25, AMC23, MATH500, GSM8K)
# A row of each data set as its card on the hub shows it, shortened.
HUB = {
    AIME24: ("HuggingFaceH4/aime_2024", None, "train", {"id": 60, "problem": "P", "solution": "long", "answer": "204", "year": "2024"}),
    AIME25: ("math-ai/aime25", None, "test", {"problem": "P", "answer": "70", "id": "0"}),
    AMC23: ("math-ai/amc23", None, "test", {"id": 0, "question": "P", "answer": "27", "url": "u"}),
    MATH500: (
        "HuggingFaceH4/MATH-500",
        None,
        "test",
        {"problem": "P", "solution": "s", "answer": "\\frac12", "subject": "Algebra", "level": 2},
    ),
    GSM8K: ("openai/gsm8k", "main", "test", {"question": "P", "answer": "16 - 3 = <<16-3=13>>13\n#### 1,013"}),
}
GOLD = {AIME24: "204", AIME25: "70", AMC23: "27", MATH500: "\\frac12", GSM8K: "1,013"}


@pytest.fixture
def hub(monkeypatch):
    """Serves one row of each data set and keeps what was asked for."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path, **options):
        asked.append((path, options["name"], options["split"], options["revision"]))
        assert options["streaming"] is False
        return [row for preset, (name, *_, row) in HUB.items() if path == name or (path == "mirror/copy" and preset is GSM8K)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.__name__)
def test_columns_of_the_hub(hub, preset):
    source = preset(revision="abc")
    assert isinstance(source, PromptSource) and hub == [], "nothing is loaded before it is asked for"
    prompt = source[0]
    assert hub == [(*HUB[preset][:3], "abc")]
    assert prompt.answer == GOLD[preset] and prompt.text is None
    assert prompt.messages == [{"role": "user", "content": BOXED.replace("{problem}", "P")}]
    assert MathGrader().check_gold(prompt.answer) is None
    assert prompt.id == f"{source.name}/0"


def test_another_name_and_split_on_the_hub(hub):
    GSM8K(path="mirror/copy", split="train").load()
    assert hub == [("mirror/copy", "main", "train", None)]


def test_labels(hub):
    source = MATH500(label_field="level")
    assert source.labels == ("2",) and source[0].label == "2" and MATH500().labels == ()


def test_names_differ_so_that_all_can_be_evaluated_at_once():
    assert [preset().name for preset in PRESETS] == ["aime24", "aime25", "amc23", "math500", "gsm8k"]
    assert GSM8K(name="mine").name == "mine"


def test_a_local_copy(tmp_path):
    path = tmp_path / "copy.jsonl"
    path.write_text("".join(json.dumps({"id": f"q{i}", "problem": f"Problem {i}", "answer": i}) + "\n" for i in range(3)))
    source = GSM8K(path=str(path), template="Q: {problem}", chat=False, limit=2)
    assert [(p.id, p.text, p.answer) for p in (source[0], source[1])] == [("q0", "Q: Problem 0", "0"), ("q1", "Q: Problem 1", "1")]
    assert len(source) == 2
    with pytest.raises(DataError, match=r"prompts\.path: cannot read .*none\.jsonl"):
        GSM8K(path=str(tmp_path / "none.jsonl")).load()
    with pytest.raises(ConfigError, match=r"prompts\.system_prompt"):
        GSM8K(chat=False, system_prompt="Be brief.")


def test_boxes_are_asked_for_and_found():
    completion = BOXED.replace("{problem}", "").replace("\\boxed{}", "\\boxed{7}")
    assert MathGrader().grade(completion, "7").reward == 1.0


@pytest.mark.parametrize(
    ("preset", "file", "size"), [(AIME24, "aime2024", 30), (AMC23, "amc2023", 40), (MATH500, "math500", 500), (GSM8K, "gsm8k_test", 1319)]
)
def test_the_benchmarks_themselves(preset, file, size):
    path = SHARED / f"{file}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    source = preset(path=str(path))
    assert len(source) == size
    grader = MathGrader()
    bad = [source[i].id for i in range(0, size, max(1, size // 60)) if grader.check_gold(source[i].answer)]
    assert bad == []
