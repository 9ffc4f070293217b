import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aer_lightning.grade import main

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    {"id": "a", "gold": "42", "prediction": r"\boxed{42}"},
    {"id": 2, "gold": "42", "prediction": r"\boxed{43}", "extra": 1},
    {"id": "c", "gold": "", "prediction": r"\boxed{43}"},
    {"id": "d", "gold": 0.5, "prediction": r"The answer is \frac{1}{2}."},
    {"id": "e", "gold": "42", "prediction": "\ud800 nothing"},
]
OUTCOMES = ["correct", "wrong", "bad_gold", "correct", "unparsed"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_verdicts_in_order_and_a_summary(file, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert main([str(file), "--out", str(out)]) == 0
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert [list(v) for v in verdicts] == [["id", "outcome", "reward", "extracted", "reason", "ms"]] * 5
    assert [v["id"] for v in verdicts] == ["a", 2, "c", "d", "e"]
    assert [v["outcome"] for v in verdicts] == OUTCOMES
    assert [v["reward"] for v in verdicts] == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert verdicts[3]["extracted"] == r"\frac{1}{2}"
    assert all(v["ms"] >= 0 for v in verdicts)
    printed = capsys.readouterr()
    assert printed.out == ""
    summary = {line.split()[0]: line.split()[1] for line in printed.err.splitlines()}
    assert (summary["correct"], summary["bad_gold"], summary["total"]) == ("2", "1", "5")


def test_files_of_a_run_are_read_as_they_are(tmp_path):
    path, out = tmp_path / "samples.jsonl", tmp_path / "out.jsonl"
    path.write_text(json.dumps({"id": "a", "answer": "42", "completion": r"so \boxed{42}", "outcome": "wrong"}) + "\n")
    assert main([str(path), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["outcome"] == "correct"


def test_malformed_lines_are_named_and_do_not_stop_the_rest(tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    good = json.dumps(ROWS[0]).encode()
    lines = [good, b"{", b"[1]", b'{"id": 1, "gold": "1"}', b'{"id": 1, "gold": "1", "prediction": 3}', b"\xff", b"", b"[" * 100_000, good]
    path.write_bytes(b"\n".join(lines))
    assert main([str(path)]) == 1
    printed = capsys.readouterr()
    assert [json.loads(line)["outcome"] for line in printed.out.splitlines()] == ["correct", "correct"]
    for number, word in ((2, "JSON"), (3, "object"), (4, '"prediction"'), (5, "string"), (6, "UTF-8"), (8, "JSON")):
        assert any(f"line {number} " in line and word in line for line in printed.err.splitlines()), number
    assert "6 malformed" in printed.err


def test_extract_workers_and_timeout_reach_the_verifier(file, capsys, tmp_path):
    assert main([str(file), "--extract", "boxed", "--workers", "1"]) == 0
    assert [json.loads(line)["outcome"] for line in capsys.readouterr().out.splitlines()] == [
        "correct",
        "wrong",
        "bad_gold",
        "unparsed",
        "unparsed",
    ]
    bomb = tmp_path / "bomb.jsonl"
    bomb.write_text(json.dumps({"id": 0, "gold": "42", "prediction": r"\boxed{(x+y+z+w+1)^{600}}"}) + "\n" + json.dumps(ROWS[0]))
    assert main([str(bomb), "--timeout", "1", "--workers", "1"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["outcome"], second["outcome"]) == ("timeout", "correct")
    assert 1000 <= first["ms"] < 2000


def test_an_expression_is_paid_on_request_only(tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"id": 0, "gold": "14", "prediction": "8 + 6"}))
    rewards = []
    for arguments in ([], ["--evaluated", "true"], ["--evaluated", "false"]):
        assert main([str(path), "--workers", "1", *arguments]) == 0
        rewards.append(json.loads(capsys.readouterr().out)["reward"])
    assert rewards == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.jsonl"], "absent.jsonl"),
        (["{file}", "--out", "{file}"], "--out"),
        (["{file}", "--workers", "0"], "workers"),
        (["{file}", "--out", "/nowhere/x"], "/nowhere/x"),
    ],
)
def test_what_cannot_run_is_one_line(arguments, message, file, capsys):
    assert main([argument.format(file=file) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert file.read_text()


def test_standard_input_and_no_torch():
    code = "import sys; from aer_lightning.grade import main; status = main(['-']); "
    code += "print('torch' in sys.modules, 'sympy' in sys.modules); sys.exit(status)"
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(ROWS[0]), capture_output=True, text=True, cwd=ROOT, env=os.environ)
    first, second = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert json.loads(first)["outcome"] == "correct"
    assert second == "False False"


def test_an_empty_file_is_graded(tmp_path, capsys):
    path = tmp_path / "empty.jsonl"
    path.touch()
    assert main([str(path)]) == 0
    assert isinstance(capsys.readouterr().err, str)


def test_bad_usage_is_argparse_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with pytest.raises(SystemExit) as caught:
        main(["x.jsonl", "--extract", "nonsense"])
    assert caught.value.code == 2


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_predictions_and_samples_of_a_run_are_read_as_they_are(tmp_path, capsys):
    prediction = {
        "source": "s",
        "id": "a",
        "sample": 1,
        "outcome": "wrong",
        "answer": "14",
        "prompt": [{"role": "user", "content": "8+6?"}],
    }
    path = write(tmp_path / "predictions.jsonl", prediction | {"completion": "8 + 6 = 14"}, prediction | {"completion": "8 + 6"})
    assert main([path, "--workers", "1"]) == 0
    printed = capsys.readouterr()
    first, second = map(json.loads, printed.out.splitlines())
    assert (first["id"], first["sample"], first["outcome"], second["outcome"]) == ("a", 1, "correct", "wrong")
    assert "1 verdicts differ from the outcome that the file has" in printed.err
    answer = {"numbers": [14, 2], "target": 7}
    sample = {"rollout": 3, "id": "c", "prompt": "14 2=7:", "outcome": "correct", "answer": answer}
    path = write(tmp_path / "samples.jsonl", sample | {"completion": "14/2"}, sample | {"completion": "14-2", "outcome": "wrong"})
    assert main([path]) == 0
    printed = capsys.readouterr()
    first, second = map(json.loads, printed.out.splitlines())
    assert (first["rollout"], first["outcome"], second["outcome"]) == (3, "correct", "wrong")
    assert "differ" not in printed.err


def test_what_a_completion_repeats_of_its_prompt_is_no_answer(tmp_path, capsys):
    path = write(tmp_path / "in.jsonl", {"id": 0, "gold": "5", "prompt": "What is 10 minus 5?", "prediction": "To solve 10 minus 5, you"})
    assert main([path, "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["reward"] == 0.0


def test_graders_by_name(tmp_path, capsys):
    path = write(tmp_path / "in.jsonl", {"id": 0, "gold": "B", "prediction": "The answer is (B)."})
    for name, reward in (("choice", 1.0), ("exact", 0.0)):
        assert main([path, "--grader", name]) == 0
        assert json.loads(capsys.readouterr().out)["reward"] == reward


def test_the_first_bad_gold_answers_are_shown_with_their_reasons(tmp_path, capsys):
    rows = [{"id": f"g{i}", "gold": gold, "prediction": "1"} for i, gold in enumerate(("1/0", "", "1,,2", "nan", "1"))]
    assert main([write(tmp_path / "in.jsonl", *rows), "--workers", "1"]) == 0
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bad gold answer of")]
    assert shown == [
        "bad gold answer of g0: division by zero", "bad gold answer of g1: empty", "bad gold answer of g2: an element is empty",
    ]  # fmt: skip
