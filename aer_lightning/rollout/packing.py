"""Who computes which sequence together with which: sequences dealt to ranks, and a rank's share cut into packs.

A pack is one row of several sequences, each attending to itself alone: nothing is padded. Every rank makes the same number of packs,
because each is a forward and a backward pass in which sharded ranks wait for one another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

SLACK = 0.02  # of the fullest rank's tokens
PACK_COST = 1 / 16  # of a full pack: what a pass costs beside its tokens, such as gathering sharded weights


def deal(lengths: Sequence[int], ranks: int, groups: Sequence[int] | None = None) -> list[list[int]]:
    """Deal sequences to ranks so that their tokens balance: the longest first, each to the rank with the fewest tokens.

    Args:
        lengths: tokens of each sequence.
        ranks: number of ranks.
        groups: the group of each sequence. Groups stay on a rank, whole or in halves, quarters, ..., as far as the fullest rank then has at
            most 2 % more than it would have otherwise: what shares a pack shares its prompt, and is not sent around.

    Returns:
        The places of each rank's sequences, ascending. No rank is left out where there are as many sequences as ranks.

    Example (18 tokens; both ranks get 9; then two groups of 10 tokens each):
        >>> deal([8, 5, 3, 1, 1], ranks=2)
        [[0, 3], [1, 2, 4]]
        >>> deal([6, 6, 4, 4], ranks=2, groups=[0, 1, 0, 1])
        [[0, 2], [1, 3]]
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rank = min(range(ranks), key=lambda r: (loads[r], r))
        shares[rank].append(i)
        loads[rank] += lengths[i]
    for units in [] if groups is None else (_units(groups, size) for size in _sizes([groups])):
        dealt = deal([sum(lengths[i] for i in unit) for unit in units], ranks)
        together = [sorted(i for u in share for i in units[u]) for share in dealt]
        fullest = max(sum(lengths[i] for i in share) for share in together)
        if fullest <= max(loads) * (1 + SLACK) and (all(together) or len(lengths) < ranks):
            return together
    return [sorted(share) for share in shares]


def first_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Few packs of at most ``budget`` tokens: the longest first, each to the first pack that has room.

    A sequence longer than the budget gets a pack of its own; whoever sets the budget sees to it that there is none.

    Example:
        >>> first_fit([5, 5, 5, 2], budget=10)
        [[0, 1], [2, 3]]
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((p for p, free in enumerate(room) if free >= lengths[i]), None)
        if place is None:
            packs.append([])
            room.append(budget)
            place = len(packs) - 1
        packs[place].append(i)
        room[place] -= lengths[i]
    return packs


def rectangles(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Packs for models that have to be padded: neighbours in length, sequences x longest at most ``budget``.

    Example (the third would make 3 x 5 tokens):
        >>> rectangles([2, 5, 5, 5], budget=10)
        [[1, 2], [3, 0]]
    """
    packs: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if packs and (len(packs[-1]) + 1) * lengths[packs[-1][0]] <= budget:
            packs[-1].append(i)
        else:
            packs.append([i])
    return packs


def cut(lengths: Sequence[int], budget: int, count: int, padded: bool = False) -> list[list[int]]:
    """Cut sequences into exactly ``count`` packs within ``budget``, as even as may be; packs beyond the sequences are empty.

    Args:
        lengths: tokens of each sequence.
        budget: bound on the tokens of a pack.
        count: number of packs, at least what ``first_fit`` (``rectangles`` where ``padded``) needs.
        padded: whether a pack is computed as a padded rectangle.

    Example (two packs would do; three are asked for):
        >>> cut([5, 5, 4, 2], budget=10, count=3)
        [[0], [1], [2, 3]]
        >>> cut([7], budget=10, count=2)
        [[0], []]
    """
    if not padded:
        even = deal(lengths, count)
        if all(sum(lengths[i] for i in share) <= budget for share in even):
            return even
    packs = rectangles(lengths, budget) if padded else first_fit(lengths, budget)
    while len(packs) < count:
        largest = max(range(len(packs)), key=lambda p: (len(packs[p]) > 1, sum(lengths[i] for i in packs[p])), default=-1)
        if largest < 0 or len(packs[largest]) < 2:
            packs.append([])
            continue
        whole = packs[largest]
        halves = [whole[: len(whole) // 2], whole[len(whole) // 2 :]] if padded else [whole[0::2], whole[1::2]]
        packs[largest : largest + 1] = halves
    return packs


def plan_packs(
    lengths: Sequence[Sequence[int]], budget: int, padded: bool = False, prompts: Sequence[Sequence[tuple[int, int]]] | None = None
) -> list[list[list[int]]]:
    """The packs of every rank, the same number on each: as many as the rank that needs the most.

    Sequences of a group are kept together, whole or in halves, quarters, ..., as far as that computes the fewest tokens: those of a pack
    share their prompt. Every rank computes the same answer from the lengths of all, so no rank has to ask another.

    Args:
        lengths: for each rank, tokens of each of its sequences.
        budget: bound on the tokens of a pack, shared ones counted with each sequence.
        padded: whether packs are computed as padded rectangles, in which nothing is shared.
        prompts: for each rank, of each of its sequences the group and the tokens of its prompt; nothing is known to be shared if left out.

    Returns:
        ``[ranks][packs][sequences of the pack]``, places within the rank's share.

    Example (rank 0 needs two packs, so rank 1 makes two; then two groups with a prompt of 3 that stay together):
        >>> plan_packs([[6, 6], [4, 3, 3]], budget=10)
        [[[0], [1]], [[0], [1, 2]]]
        >>> plan_packs([[6, 5, 4, 4]], budget=10, prompts=[[(0, 3), (1, 3), (0, 3), (1, 3)]])
        [[[0, 2], [1, 3]]]
    """
    if padded or prompts is None:
        fit = rectangles if padded else first_fit
        count = max(1, max((len(fit(share, budget)) for share in lengths), default=1))
        return [cut(share, budget, count, padded) for share in lengths]
    groups = [[group for group, _ in share] for share in prompts]
    found = []
    for size in _sizes(groups):
        units = [_units(share, size) for share in groups]
        sums = [[sum(share[i] for i in unit) for unit in of] for share, of in zip(lengths, units, strict=True)]
        if size == 1 or max(map(max, filter(None, sums)), default=0) <= budget:
            packs = [
                [sorted(i for u in pack for i in of[u]) for pack in packed]
                for of, packed in zip(units, plan_packs(sums, budget), strict=True)
            ]
            computed = sum(_computed(n, p, of) for n, of, packed in zip(lengths, prompts, packs, strict=True) for p in packed)
            found.append((computed + len(packs) * len(packs[0]) * budget * PACK_COST, size, packs))
    return min(found)[2]


def _sizes(groups: Sequence[Sequence[int]]) -> Iterator[int]:
    """How many of a group may stay together: all of the largest, half of it, down to one."""
    size = max((count for share in groups for count in Counter(share).values()), default=1)
    while size:
        yield size
        size //= 2


def _units(groups: Sequence[int], size: int) -> list[list[int]]:
    """The places of each group, in pieces of at most ``size``."""
    members: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    return [own[start : start + size] for own in members.values() for start in range(0, len(own), size)]


def _computed(lengths: Sequence[int], pack: Sequence[int], prompts: Sequence[tuple[int, int]]) -> int:
    """Tokens of a pack's row."""
    return sum(lengths[i] - prompts[i][1] for i in pack) + sum(dict(prompts[i] for i in pack).values())


def padding_share(lengths: Sequence[int], packs: Sequence[Sequence[int]], padded: bool = False) -> float:
    """Share of the computed tokens that are padding: 0 for rows of sequences, what is lost in padded rectangles.

    Example (2 x 5 computed, 8 of them real):
        >>> round(padding_share([5, 3], [[0, 1]], padded=True), 3)
        0.2
    """
    real = sum(lengths[i] for pack in packs for i in pack)
    computed = sum(max((lengths[i] for i in pack), default=0) * len(pack) for pack in packs) if padded else real
    return 1 - real / computed if computed else 0.0
