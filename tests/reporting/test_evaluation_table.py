from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from aer_lightning.reporting.evaluation_table import EvaluationResult, SourceResult

ONE = {
    "pass@1": 0.25,
    "pass@1_se": 0.03,
    "pass@16": 0.5,
    "pass@16_se": 0.04,
    "pass@2": 0.3,
    "pass@2_se": 0.1,
    "maj@16": 0.4,
    "maj@16_se": 0.02,
}
ONE |= {"distinct": 0.75, "response_length": 123.456, "response_length_se": 7.89, "truncated": 0.125, "correct": 0.25, "wrong": 0.75}
TWO = {"pass@1": 0.75, "pass@1_se": 0.04, "pass@2": 0.9, "maj@16": 0.6, "maj@16_se": 0.1, "level 2/pass@1": 0.5, "level 2/pass@1_se": 0.2}


@pytest.fixture
def result():
    sources = {"aime24": SourceResult(30, ONE), "math500": SourceResult(498, TWO, {"m/7": "empty", "m/9": "braces do not match"}, ["m/1"])}
    return EvaluationResult("folder", None, 16, 0.6, 0.95, 4096, 1, sources)


def cells(result):
    rows = [line.strip().strip("|").split("|") for line in result.lines() if line.startswith("|") and "---" not in line]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_rows_and_columns(result):
    table = cells(result)
    assert list(table) == [
        "",
        "problems",
        "pass@1 (avg@16)",
        "pass@2",
        "pass@16",
        "maj@16",
        "distinct answers",
        "tokens",
        "truncated",
        "correct",
        "wrong",
        "level 2: pass@1 (avg@16)",
    ]
    assert table[""] == ["aime24", "math500", "mean"] and table["problems"] == ["30", "498", ""]
    assert table["pass@1 (avg@16)"] == ["0.250 ± 0.030", "0.750 ± 0.040", "0.500 ± 0.025"], "0.025 = sqrt(.03^2 + .04^2) / 2"
    assert table["pass@2"] == ["0.300 ± 0.100", "0.900", "0.600"], "an error that is not known stays unknown"
    assert table["pass@16"] == ["0.500 ± 0.040", "–", ""], "no mean over benchmarks of which one was not measured"
    assert table["tokens"] == ["123.5 ± 7.9", "–", ""] and table["truncated"][0] == "0.125"
    assert table["level 2: pass@1 (avg@16)"] == ["–", "0.500 ± 0.200", ""]


def test_the_header_says_what_was_done(result):
    header = "\n".join(result.header())
    assert "n = 16 " in header and "temperature 0.6, top_p 0.95" in header and "4096" in header and "seed 1" in header
    assert "gold answers all parse: aime24" in header
    assert "GOLD ANSWERS DO NOT ALL PARSE in math500: 2 of 501 left out (m/7, m/9)" in header
    assert "prompts too long in math500: 1 of 501 left out (m/1)" in header
    greedy = "\n".join(replace(result, temperature=0.0, samples=1, checkpoint="last.ckpt").header())
    assert "greedy" in greedy and "checkpoint last.ckpt" in greedy


def test_one_benchmark_has_no_mean_and_columns_are_aligned(result):
    alone = replace(result, sources={"aime24": result.sources["aime24"]})
    assert cells(alone)[""] == ["aime24"]
    assert len({len(line) for line in result.lines() if line.startswith("|")}) == 1


def test_plain_values_hold_everything(result):
    read = json.loads(json.dumps(result.as_dict()))
    assert read["samples"] == 16 and read["sources"]["math500"]["bad_gold"] == {"m/7": "empty", "m/9": "braces do not match"}
    assert read["sources"]["aime24"]["figures"] == ONE


def test_not_a_number_is_not_shown_as_one():
    table = cells(EvaluationResult("m", None, 1, 1.0, 1.0, 8, 0, {"x": SourceResult(1, {"pass@1": math.nan})}))
    assert table["pass@1 (avg@1)"] == ["–"]
