"""What is computed beyond what has to be, counted: bars of the packed step, at more than one seed."""

import importlib.util
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "work.py"
SMALL = ["--prompts", "4", "--responses", "4", "--mean", "150", "--max", "600", "--tokens", "1024"]


def load():
    spec = importlib.util.spec_from_file_location("work", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def count(*options):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", *SMALL, *options], capture_output=True, text=True, timeout=200, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("options", "bar", "scored"), [(["--seed", "1"], 1.05, 0), (["--seed", "2", "--steps", "2"], 1.40, 1)])
def test_little_is_computed_in_vain(options, bar, scored):
    figures = count(*options)
    assert 0.99 <= figures["ratio"] <= bar and figures["padding_share"] <= 0.02 and figures["scored_share"] == scored
    assert figures["shared_share"] > 0.1, "a group's prompt is computed once in each pack"
    assert figures["former_ratio"] > figures["ratio"]


@pytest.mark.slow
def test_ranks_balance_and_make_equal_collectives():
    figures = count("--ranks", "2")
    assert figures["ratio"] <= 1.05 and figures["equal_collectives"] and figures["rank_balance"] < 1.2
    assert figures["collectives"]["all_reduce"] > 0


def test_the_ideal_is_that_of_the_sequences():
    work = load()
    n, head, d = work.decoder_parameters(), work.HIDDEN * work.VOCABULARY, work.HIDDEN
    one = 6 * n * (work.PROMPT + 10) + 14 * (work.PROMPT + 10) ** 2 * d + 6 * head * 10
    assert work.ideal_flops([10]) == one and work.ideal_flops([10, 10]) == 2 * one
    assert work.former_flops([10] * 8) > work.ideal_flops([10] * 8)
    lengths = work.draw_lengths(Namespace(lengths="lognormal", mean=2000, sigma=0.9, max=8192, seed=3, prompts=64, responses=8))
    assert len(lengths) == 512 and 1500 < sum(lengths) / 512 < 2300 and max(lengths) <= 8192
