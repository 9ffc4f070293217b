from aer_lightning.data.seeds import permuted_index, sample_seed


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
