import math

import pytest

from aer_lightning.errors import ConfigError
from aer_lightning.study.findings import Claims, as_markdown, findings, paired, pass_at

SECTION = {
    "method": "aer",
    "collapse": "grpo",
    "baselines": ["grpo", "dapo", "aer"],
    "targets": ["aer_low"],
    "components": {"no_anchor": "the anchor"},
    "robustness": {"aer": ["aer", "aer_fast"]},
}


def row(method, seed, one, many, last_entropy=0.5, **more):
    levels = {"anchor": 0.5, "target": 0.25, "last_alpha": 0.1, "in_band_late": 0.8, "last_reward": 0.6}
    passes = {"toy/pass@1": one, "toy/pass@8": (one + many) / 2, "toy/pass@32": many}
    return {"method": method, "seed": seed, "last_entropy": last_entropy} | levels | passes | more


@pytest.fixture
def claims():
    return Claims.of(SECTION, "plan.yaml")


@pytest.fixture
def rows():
    return [
        *(row("aer", seed, 0.50 + 0.01 * seed, 0.80 + 0.01 * seed) for seed in (1, 2, 3)),
        # Equal at 1 (differences -.01, 0, .01), .1 lower at 32.
        *(row("grpo", seed, 0.48 + 0.02 * seed, 0.70 + 0.01 * seed, last_entropy=0.1 * seed) for seed in (1, 2, 3)),
        # Lower by .2 and so not at equal pass@1.
        *(row("dapo", seed, 0.30 + 0.01 * seed, 0.60) for seed in (1, 2, 3)),
        *(row("aer_low", seed, 0.5, 0.8, in_band_late=0.1 * seed) for seed in (1, 2)),
        *(row("no_anchor", seed, 0.45, 0.78, last_reward=0.4) for seed in (1, 2, 3)),
        row("aer_fast", 1, 0.4, 0.7, last_entropy=1.5, last_reward=0.3),
    ]


def by_title(found):
    return {finding.title.split()[0] + " " + finding.title.split()[-1]: finding for finding in found}


def test_each_claim_has_its_numbers(rows, claims):
    found = by_title(findings(rows, claims))
    assert (
        "grpo ends at 0.20 ± 0.06 of its initial entropy" in found["Does collapse?"].sentence
        and "3 seeds" in found["Does collapse?"].sentence
    )
    assert found["Is tracked?"].sentence.endswith("0.15 ± 0.05 at H* = 0.5 H_0.")
    assert found["Is tracked?"].rows == [["aer_low", "0.50", "0.50 ± 0.00", "0.15 ± 0.05", "0.100 ± 0.000", "2"]]
    passes = found["At higher?"]
    assert "pass@1 0.520 ± 0.006" in passes.sentence
    assert "the same within two standard errors as that of grpo; there its pass@32 is higher than that of grpo." in passes.sentence
    assert [r[0] for r in passes.rows] == ["grpo", "dapo"] and passes.rows[1][1] == "+0.200 ± 0.000"
    assert "the anchor: pass@1 +0.070 ± 0.006, pass@32 +0.040 ± 0.006" in found["What add?"].sentence
    assert found["What add?"].rows[0][-1] == "0.40 ± 0.00"
    assert "aer over 2 settings: last reward 0.30 to 0.60, last H / H_0 0.50 to 1.50 (one seed)" in found["Is magnitude?"].sentence


def test_a_worse_method_is_called_worse(rows, claims):
    lower = [r | {"toy/pass@32": r["toy/pass@32"] - 0.3} if r["method"] == "aer" else r for r in rows]
    assert "there its pass@32 is lower than that of grpo" in by_title(findings(lower, claims))["At higher?"].sentence
    apart = [r | {"toy/pass@1": 0.9} if r["method"] == "aer" else r for r in rows]
    assert "nothing can be said" in by_title(findings(apart, claims))["At higher?"].sentence


def test_claims_without_their_runs_are_left_out(rows, claims):
    assert [f.title for f in findings([r for r in rows if r["method"] == "grpo"], claims)] == ["Does the entropy collapse?"]
    assert findings([], claims) == []
    unpaired = [r | {"seed": 9} if r["method"] == "aer_fast" else r for r in rows]
    assert "Is magnitude?" not in by_title(findings(unpaired, claims)), "no common seed"


def test_differences_are_paired_by_seed_and_sources_averaged(rows):
    assert pass_at({"a/pass@1": 0.2, "b/pass@1": 0.4, "a/pass@8": 1.0}, 1) == pytest.approx(0.3)
    assert math.isnan(pass_at({}, 1))
    ours = {1: {"a/pass@1": 0.5}, 2: {"a/pass@1": 0.9}, 3: {"a/pass@1": 0.0}}
    theirs = {1: {"a/pass@1": 0.4}, 2: {"a/pass@1": 0.8}}
    difference = paired(ours, theirs, 1)
    assert difference.mean == pytest.approx(0.1) and difference.error == pytest.approx(0) and difference.seeds == 2


def test_the_page_has_a_table_where_there_is_one(rows, claims):
    page = as_markdown(findings(rows, claims), "made so")
    assert "made so" in page and "| aer minus | pass@1 | pass@8 | pass@32 |\n|---|---|---|---|\n| grpo |" in page


def test_parts_that_are_missing_or_unknown_are_named():
    with pytest.raises(ConfigError, match=r"plan\.yaml: claims\.method"):
        Claims.of({k: v for k, v in SECTION.items() if k != "method"}, "plan.yaml")
    with pytest.raises(ConfigError, match=r"claims\.typo"):
        Claims.of(SECTION | {"typo": 1}, "plan.yaml")
