import json
import logging
from pathlib import Path

import pytest

from aer_lightning.data.prompts import JsonlPrompts, PromptSource
from aer_lightning.data.rewards.countdown import CountdownGrader
from aer_lightning.errors import ConfigError, DataError

SHARED = Path(__file__).parents[4] / "shared" / "data"
ROWS = [
    {"id": "a/1", "problem": "What is $1+1$?", "answer": "2", "source": "book", "level": 1},
    {"id": "a/2", "problem": "What is {x} of 3?", "answer": 3, "source": "web", "level": 2},
    {"id": 7, "problem": "Grüße", "answer": 0.5, "level": 1},
]


@pytest.fixture
def write(tmp_path):
    def write(*lines, name="train.jsonl"):
        path = tmp_path / name
        data = [line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode() for line in lines]
        path.write_bytes(b"\n".join(data) + b"\n")
        return path

    return write


def test_rows_become_prompts(write):
    source = JsonlPrompts(write(*ROWS), template="Q: {problem}\nA:", grader=CountdownGrader())
    source.load()
    assert isinstance(source, PromptSource)
    assert (len(source), source.name, source.labels) == (3, "train", ())
    assert [source[i].id for i in range(3)] == ["a/1", "a/2", "7"]
    assert [source[i].text for i in range(3)] == ["Q: What is $1+1$?\nA:", "Q: What is {x} of 3?\nA:", "Q: Grüße\nA:"]
    assert [source[i].answer for i in range(3)] == ["2", "3", "0.5"]
    assert all(source[i].messages is None and source[i].label == "" for i in range(3))
    assert source[0].extra == {"problem": "What is $1+1$?", "source": "book"}
    assert isinstance(source.grader, CountdownGrader)
    for index in (-1, 3):
        with pytest.raises(IndexError):
            source[index]


def test_chat_messages(write):
    path = write(*ROWS)
    prompt = JsonlPrompts(path, template="Solve. {problem}", chat=True, system_prompt="Be brief.")[0]
    assert prompt.text is None
    assert prompt.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Solve. What is $1+1$?"}]
    assert JsonlPrompts(path, chat=True)[2].messages == [{"role": "user", "content": "Grüße"}]


def test_other_fields_and_labels(write):
    path = write({"q": "one", "a": "explained\n#### 1,018", "kind": "x"}, "", {"q": "two", "a": "so #### 3 #### 4 ", "kind": "y"})
    source = JsonlPrompts(path, name="gsm", id_field=None, problem_field="q", answer_field="a", answer_after="####", label_field="kind")
    assert [(p.id, p.text, p.answer, p.label) for p in (source[0], source[1])] == [
        ("gsm/0", "one", "1,018", "x"),
        ("gsm/1", "two", "4", "y"),
    ]
    assert source.labels == ("x", "y")


def test_the_default_grader_is_mathematics(write):
    from aer_lightning.data.rewards.math import MathGrader

    source = JsonlPrompts(write(*ROWS))
    assert isinstance(source.grader, MathGrader)
    assert source.grader is source.grader


def test_nothing_is_read_before_load(tmp_path):
    source = JsonlPrompts(tmp_path / "later.jsonl")
    (tmp_path / "later.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert len(source) == 1


def test_a_byte_order_mark_and_crlf(tmp_path):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode() + b"\r\n" + json.dumps(ROWS[1]).encode())
    assert len(JsonlPrompts(path)) == 2


GOOD = ROWS[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "b", "problem": "x"}, 'line 3 has no field "answer"; it has id, problem'),
        ({"id": "b", "answer": "x"}, 'line 3 has no field "problem"'),
        ({"problem": "b", "answer": "x"}, 'line 3 has no field "id"'),
        ({"id": "b", "problem": "x", "answer": None}, 'line 3 has no field "answer"'),
        ({"id": "b", "problem": "x", "answer": ["1"]}, 'line 3: field "answer" must be text or a number, not list'),
        ({"id": "b", "problem": "x", "answer": True}, 'line 3: field "answer" must be text or a number, not bool'),
        ({"id": "b", "problem": " \n", "answer": "1"}, 'line 3: field "problem" is empty'),
        ({"id": "a/1", "problem": "x", "answer": "1"}, "line 3 has the id 'a/1' of .*line 1; ids must be unique"),
        ([1, 2], "line 3 is not a JSON object but list"),
        ("null", "line 3 is not a JSON object but NoneType"),
        ('{"id": "b", ', "line 3 is not JSON: .* at column 12"),
        (b'{"id": "\xff"}', "line 3 is not UTF-8"),
        ("[" * 100_000, "line 3 is not usable JSON"),
        ('{"id": ' + "1" * 5000 + "}", "line 3 is not usable JSON"),
    ],
)
def test_a_bad_line_is_named(write, line, message):
    path = write(GOOD, "", line)
    with pytest.raises(DataError, match=rf"^prompts\.path: {path} {message}"):
        JsonlPrompts(path).load()


def test_missing_and_empty_files(write, tmp_path):
    with pytest.raises(DataError, match=r"prompts\.path: cannot read .*nowhere\.jsonl: No such file"):
        JsonlPrompts(tmp_path / "nowhere.jsonl").load()
    with pytest.raises(DataError, match=r"prompts\.path: .* is no regular file"):
        JsonlPrompts(tmp_path).load()
    with pytest.raises(DataError, match=r"prompts\.path: no problem in .*train"):
        len(JsonlPrompts(write("")))
    with pytest.raises(DataError, match='has no answer after "####"'):
        JsonlPrompts(write(GOOD), answer_after="####").load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "no place"}, "prompts.template"),
        ({"template": "{problem} {problem}"}, "prompts.template"),
        ({"system_prompt": "x"}, "prompts.system_prompt"),
        ({"subset": "test"}, "prompts.subset"),
        ({"validation_fraction": 0.0}, "prompts.validation_fraction"),
        ({"validation_fraction": 1.0}, "prompts.validation_fraction"),
        ({"limit": 0}, "prompts.limit"),
        ({"duplicates": "merge"}, "prompts.duplicates"),
        ({"answer_after": ""}, "prompts.answer_after"),
    ],
)
def test_impossible_options_are_refused_before_reading(options, message):
    with pytest.raises(ConfigError, match=message):
        JsonlPrompts("nowhere.jsonl", **options)


def test_subsets_part_the_file_and_keep_copies_together(write):
    rows = [{"id": str(i), "problem": f"problem {i // 2}" + "?" * (i % 2), "answer": "1"} for i in range(1000)]
    path = write(*rows)

    def ids(**options):
        source = JsonlPrompts(path, **options)
        return [source[i].id for i in range(len(source))]

    train, validation = ids(subset="train", validation_fraction=0.2), ids(subset="validation", validation_fraction=0.2)
    assert sorted(train + validation) == sorted(ids())
    assert 130 < len(validation) < 270
    assert {int(i) // 2 for i in train}.isdisjoint(int(i) // 2 for i in validation)
    assert set(validation) > set(ids(subset="validation", validation_fraction=0.1))
    assert ids(subset="train", validation_fraction=0.2, limit=10) == train[:10]


def test_duplicates_are_reported_dropped_or_refused(write, caplog):
    copy = {"id": "copy", "problem": "what is 1+1", "answer": "3"}
    path = write(*ROWS, copy)
    with caplog.at_level(logging.WARNING):
        source = JsonlPrompts(path)
        assert len(source) == 4
    assert source.report.duplicates == [("a/1", "copy")]
    assert source.report.conflicts == [("a/1", "copy")]
    assert "1 of 4 training problems repeat another one: a/1 = copy" in caplog.text
    dropped = JsonlPrompts(path, duplicates="drop")
    assert [dropped[i].id for i in range(len(dropped))] == ["a/1", "a/2", "7"]
    assert dropped.report.duplicates == [("a/1", "copy")]
    with pytest.raises(DataError, match=r"line 4 has the problem of .* line 1; remove it"):
        JsonlPrompts(path, duplicates="error").load()
    assert JsonlPrompts(write(*ROWS, name="clean.jsonl")).report.clean


def test_overlap_with_evaluation_sets(write):
    train = JsonlPrompts(write(*ROWS))
    held_out = JsonlPrompts(
        write({"id": "e/1", "problem": "GRÜSSE", "answer": "1"}, {"id": "e/2", "problem": "new", "answer": "1"}, name="e.jsonl")
    )
    report = train.check_overlap({"exam": held_out})
    assert report.overlaps == {"exam": [("7", "e/1")]}
    assert not report.clean


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here")
def test_shared_files_load():
    for name, rows in {"aime2024": 30, "amc2023": 40, "math500": 500, "gsm8k_test": 1319, "gsm8k_train": 7473}.items():
        source = JsonlPrompts(SHARED / f"{name}.jsonl")
        assert len(source) == rows, name
    train, test = JsonlPrompts(SHARED / "gsm8k_train.jsonl"), JsonlPrompts(SHARED / "gsm8k_test.jsonl")
    report = train.check_overlap({"test": test})
    expected = {json.loads(line)["problem"] for line in (SHARED / "gsm8k_train.jsonl").open(encoding="utf-8")} & {
        json.loads(line)["problem"] for line in (SHARED / "gsm8k_test.jsonl").open(encoding="utf-8")
    }
    assert len(report.overlaps["test"]) >= len(expected)
    labelled = JsonlPrompts(SHARED / "math500.jsonl", label_field="subject")
    assert len(labelled.labels) == 7


def test_where_a_box_is_asked_for_only_a_box_is_an_answer(write):
    boxed = JsonlPrompts(write(*ROWS), template="{problem} Write the answer in \\boxed{}.")
    free = JsonlPrompts(write(*ROWS))
    in_the_system_prompt = JsonlPrompts(write(*ROWS), chat=True, system_prompt="Answer in \\boxed{}.")
    assert [source.grader.extract for source in (boxed, free, in_the_system_prompt)] == ["boxed", "auto", "boxed"]
