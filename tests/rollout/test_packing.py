"""Dealing and packing: exact partitions, within the budget, balanced, the same number of packs everywhere."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aer_lightning.rollout import deal, padding_share, plan_packs
from aer_lightning.rollout.packing import cut, first_fit, rectangles

LENGTHS = st.lists(st.integers(1, 100), min_size=0, max_size=40)


def flat(packs):
    return sorted(i for pack in packs for i in pack)


@given(LENGTHS, st.integers(1, 5))
def test_dealing_is_a_partition_that_leaves_no_rank_out(lengths, ranks):
    shares = deal(lengths, ranks)
    assert flat(shares) == list(range(len(lengths)))
    assert all(shares) or len(lengths) < ranks
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0), "no rank has more than one sequence more than another"


@given(st.lists(LENGTHS, min_size=1, max_size=4), st.integers(100, 400), st.booleans())
def test_every_rank_makes_as_many_packs_as_the_one_that_needs_most(lengths, budget, padded):
    plans = plan_packs(lengths, budget, padded)
    assert len({len(plan) for plan in plans}) == 1 and len(plans[0]) >= 1
    fit = rectangles if padded else first_fit
    assert len(plans[0]) == max(1, max(len(fit(share, budget)) for share in lengths))
    for share, plan in zip(lengths, plans, strict=True):
        assert flat(plan) == list(range(len(share)))
        for pack in plan:
            assert (max((share[i] for i in pack), default=0) * len(pack) if padded else sum(share[i] for i in pack)) <= budget
        if len(share) >= len(plan):
            assert all(plan), "no pack is empty where there are sequences enough"


@given(LENGTHS, st.integers(100, 400), st.integers(0, 5))
def test_more_packs_than_needed_stay_within_the_budget(lengths, budget, more):
    count = len(first_fit(lengths, budget)) + more
    packs = cut(lengths, budget, count)
    assert len(packs) == count and flat(packs) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in pack) <= budget for pack in packs)


@pytest.mark.parametrize("seed", range(5))
def test_long_tailed_lengths_balance_and_do_not_pad(seed):
    draw = random.Random(seed)
    lengths = [min(8192, max(16, int(draw.lognormvariate(7.2, 0.9)))) for _ in range(512)]
    shares = deal(lengths, 8)
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) / (sum(loads) / 8) < 1.01
    plans = plan_packs([[lengths[i] for i in share] for share in shares], 16384)
    assert len(plans[0]) <= -(-max(loads) // 16384) + 1, "little more than the fewest packs possible"
    assert all(padding_share([lengths[i] for i in share], plan) == 0 for share, plan in zip(shares, plans, strict=True))
    padded = plan_packs([[lengths[i] for i in share] for share in shares], 16384, padded=True)
    assert padding_share([lengths[i] for i in shares[0]], padded[0], padded=True) < 0.35, "what models that must be padded lose"


def test_groups_stay_together_where_that_computes_less():
    prompts = [(g, 8) for _ in range(3) for g in range(4)]
    (packs,) = plan_packs([[10] * 12], 60, prompts=[prompts])
    assert [len({prompts[i][0] for i in pack}) for pack in packs] == [2, 2]
    halves = plan_packs([[10] * 8], 20, prompts=[[(0, 9)] * 4 + [(1, 9)] * 4])
    assert sorted(halves[0]) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    lengths = [10, 10, 9, 2, 2, 2]  # two packs of singles, or a third for a group that is hardly worth it
    assert len(plan_packs([lengths], 20, prompts=[[(0, 1), (1, 1), (0, 1), (1, 1), (0, 1), (1, 1)]])[0]) == 2


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20)), max_size=12), min_size=1, max_size=3))
def test_packs_of_groups_are_exact_within_the_budget_and_equally_many(ranks):
    lengths = [[n + 7 for _, n in share] for share in ranks]
    prompts = [[(group, 7) for group, _ in share] for share in ranks]
    packs = plan_packs(lengths, 40, prompts=prompts)
    assert len({len(of) for of in packs}) == 1
    for share, of in zip(lengths, packs, strict=True):
        assert sorted(i for pack in of for i in pack) == list(range(len(share)))
        assert all(sum(share[i] for i in pack) <= 40 for pack in of)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 100)), max_size=40), st.integers(1, 4))
def test_groups_that_stay_on_a_rank_cost_little_balance(sequences, ranks):
    lengths, groups = [n for _, n in sequences], [group for group, _ in sequences]
    alone, together = deal(lengths, ranks), deal(lengths, ranks, groups)
    assert sorted(i for share in together for i in share) == list(range(len(lengths)))
    fullest = [max((sum(lengths[i] for i in share) for share in of), default=0) for of in (alone, together)]
    assert fullest[1] <= fullest[0] * 1.02
    assert all(together) or len(lengths) < ranks, "no rank is left out"


def test_whole_groups_stay_on_a_rank_where_they_balance():
    draw = random.Random(0)
    lengths = [max(1, round(draw.lognormvariate(7, 0.9))) for _ in range(512)]
    shares = deal(lengths, 4, [i // 8 for i in range(512)])
    assert len({i // 8 for share in shares for i in share}) == 64 and sum(len({i // 8 for i in share}) for share in shares) < 80
