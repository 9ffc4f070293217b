from aer_lightning.data.seeds import permuted_index, sample_seed, stratified_index


def test_seed_depends_on_each_part_and_on_nothing_else():
    base = sample_seed(1, "a", 2, 3)
    assert base == sample_seed(1, "a", 2, 3)
    others = {
        sample_seed(2, "a", 2, 3),
        sample_seed(1, "b", 2, 3),
        sample_seed(1, "a", 3, 3),
        sample_seed(1, "a", 2, 4),
        sample_seed(1, "a", -1, 3),
    }
    assert base not in others and len(others) == 5
    assert 0 <= base < 2**63


def test_seed_separates_fields():
    assert sample_seed(1, "a1", 2, 3) != sample_seed(1, "a", 12, 3)


def test_each_pass_is_a_permutation_in_its_own_order():
    for size in (1, 2, 3, 7, 64, 100, 257):
        first = [permuted_index(i, size, seed=5) for i in range(size)]
        second = [permuted_index(size + i, size, seed=5) for i in range(size)]
        assert sorted(first) == sorted(second) == list(range(size))
        if size >= 64:
            assert first != second
            assert first != list(range(size))
            assert first != [permuted_index(i, size, seed=6) for i in range(size)]


def test_a_stratified_pass_is_a_permutation_whose_blocks_keep_the_mix():
    for size, period in ((3, 3), (60, 3), (35, 5)):
        passes = [[stratified_index(turn * size + i, size, period, seed=5) for i in range(size)] for turn in range(2)]
        assert all(sorted(order) == list(range(size)) for order in passes)
        assert all([index % period for index in order] == [i % period for i in range(size)] for order in passes)
        if size > period:
            assert passes[0] != passes[1] and passes[0] != [stratified_index(i, size, period, seed=6) for i in range(size)]
            shifts = {tuple(order[i] // period for i in range(stratum, size, period)) for order in passes[:1] for stratum in range(period)}
            assert len(shifts) == period, "each stratum has an order of its own"
