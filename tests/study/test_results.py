from __future__ import annotations

import json

import pytest

from aer_lightning.errors import DataError
from aer_lightning.study.results import search_score


def test_the_search_is_decided_by_the_mean_of_its_pass_at_k(tmp_path):
    rows = [{"step": 5, "source": "s", "id": f"p{i}", "n": 4, "correct": c, "distinct_correct": 1} for i, c in enumerate((0, 1, 2, 4))]
    (tmp_path / "evaluation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    # pass@1: (0 + 1/4 + 2/4 + 1) / 4; pass@2: (0 + 1/2 + 5/6 + 1) / 4.
    assert search_score(tmp_path, [1, 2]) == pytest.approx({"pass@1": 7 / 16, "pass@2": 7 / 12, "score": (7 / 16 + 7 / 12) / 2})
    with pytest.raises(DataError, match="8 samples"):
        search_score(tmp_path, [1, 8])
