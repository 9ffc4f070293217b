from __future__ import annotations

import pytest

from aer_lightning.errors import ConfigError
from aer_lightning.study.configuration import change, merge


def test_merging_replaces_lists_and_classes_and_merges_the_rest():
    first = {"a": {"b": 1, "c": [1, 2]}, "o": {"class_path": "X", "init_args": {"p": 1, "q": 2}}}
    assert merge(first, {"a": {"c": [3]}, "o": {"class_path": "Y", "init_args": {"r": 3}}}) == {
        "a": {"b": 1, "c": [3]},
        "o": {"class_path": "Y", "init_args": {"r": 3}},
    }
    assert merge(first, {"o": {"init_args": {"q": 5}}})["o"] == {"class_path": "X", "init_args": {"p": 1, "q": 5}}
    assert first["a"]["c"] == [1, 2]


def test_single_options_of_callbacks_and_of_the_rest():
    config = {"trainer": {"callbacks": [{"class_path": "a.b.One", "init_args": {"x": 1}}, {"class_path": "Two"}]}}
    changed = change(config, {"One.x": 2, "Two.y": 3, "model.init_args.lr": 0.1})
    assert changed["trainer"]["callbacks"] == [
        {"class_path": "a.b.One", "init_args": {"x": 2}},
        {"class_path": "Two", "init_args": {"y": 3}},
    ]
    assert changed["model"] == {"init_args": {"lr": 0.1}} and config["trainer"]["callbacks"][0]["init_args"] == {"x": 1}
    assert change(config, {"Three.z": 1}, skip_missing=True) == config
    with pytest.raises(ConfigError, match=r"Three.*One, Two"):
        change(config, {"Three.z": 1})
