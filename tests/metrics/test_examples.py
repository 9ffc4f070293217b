"""The examples in the docstrings are right."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["avg_at_k", "distinct_answers", "maj_at_k", "pass_at_k"])
def test_examples(name):
    result = doctest.testmod(import_module(f"aer_lightning.metrics.{name}"))
    assert result.attempted >= 3
    assert result.failed == 0
