"""Seeds that depend on what is sampled and on nothing else: not on the rank, the batch, the order or a restart."""

from __future__ import annotations

import hashlib


def sample_seed(run_seed: int, prompt_id: str, rollout: int, sample: int, attempt: int = 0) -> int:
    """Seed of one sample.

    Args:
        run_seed: ``seed_everything`` of the run.
        prompt_id: the prompt's stable name.
        rollout: index of the rollout, or a negative number for validation (whose samples do not change with training).
        sample: index within the group, 0 <= sample < G.
        attempt: round of dynamic sampling, because a finite source may give a prompt twice in one rollout.

    Returns:
        A 63-bit unsigned integer.
    """
    again = f"\x1f{attempt}" if attempt else ""
    key = f"{run_seed}\x1f{prompt_id}\x1f{rollout}\x1f{sample}{again}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def permuted_index(cursor: int, size: int, seed: int) -> int:
    """The ``cursor``-th index of an endless sequence of passes over ``range(size)``, each pass in its own seeded order.

    A four-round Feistel network over the smallest even-bit domain that holds ``size``, walked until it lands inside: constant
    memory, so a training set of any size is shuffled without a list, and one integer is the whole state.
    """
    turn, position = divmod(cursor, size)
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = position >> half, position & mask
        for round_ in range(4):
            key = f"{seed}:{turn}:{round_}:{right}".encode()
            left, right = right, left ^ (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") & mask)
        position = (left << half) | right
        if position < size:
            return position


def stratified_index(cursor: int, size: int, period: int, seed: int) -> int:
    """Like `permuted_index`, but every index keeps its remainder by ``period``, so that each block of ``period`` stays a full mix.

    ``size`` is a multiple of ``period``.
    """
    block, stratum = divmod(cursor, period)
    return permuted_index(block, size // period, seed * period + stratum) * period + stratum
