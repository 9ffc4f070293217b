from collections import Counter

from aer_lightning.data.prompts.generated import CounterRandom, interleave


def test_splitmix64_gives_the_published_numbers():
    rng = CounterRandom("any")
    rng._state = 1234567
    assert [rng.bits() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_below_is_uniform():
    rng = CounterRandom("uniform", 1)
    counts = Counter(rng.below(7) for _ in range(14_000))
    assert set(counts) == set(range(7))
    assert sum((count - 2000) ** 2 / 2000 for count in counts.values()) < 22.5  # chi-square, 6 degrees, p = 0.001


def test_interleave_spreads_evenly():
    pattern = interleave((1, 2, 5))
    for length in range(1, 9):
        for j, part in enumerate((1, 2, 5)):
            assert abs(pattern[:length].count(j) - part * length / 8) <= 1
