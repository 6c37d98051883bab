"""Chooses few of many cells, so that two values of different axes that meet in any cell meet in a chosen one."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

#: What one cell is on each axis, in an order that is the same for all.
Point = tuple[str, ...]
_Pair = tuple[int, str, int, str]


def pairs_of(point: Point) -> Iterator[_Pair]:
    """Yield the pairs of values that meet in a point, each with the axes that they are on."""
    for (left, one), (right, other) in combinations(enumerate(point), 2):
        yield left, one, right, other


def covering(points: Sequence[Point], given: Iterable[Point] = ()) -> list[int]:
    """Return the indices, ascending, of points in which all pairs of values meet that meet in any of ``points``.

    Pairs that meet in one of the points ``given`` need no other. The next point is always the one with the most pairs
    that are still missing, the first of several: at most ``1 + ln`` of the pairs of one point times as many are taken
    as the fewest that would do (V. Chvatal, A greedy heuristic for the set-covering problem, 1979). Generators of
    pairwise tests start from lists of values and from rules for what does not exist; here what exists is listed, and
    most combinations do not.
    """
    numbers: dict[_Pair, int] = {}
    left = [frozenset(numbers.setdefault(pair, len(numbers)) for pair in pairs_of(point)) for point in points]
    covered = {numbers[pair] for point in given for pair in pairs_of(point) if pair in numbers}
    # What a point would add only ever gets less, so that an old count is a bound: most are never counted again.
    queue = [(-len(pairs), index) for index, pairs in enumerate(left)]
    heapq.heapify(queue)
    chosen: list[int] = []
    while queue and len(covered) < len(numbers):
        _, index = heapq.heappop(queue)
        missing = left[index] - covered
        if not missing:
            continue
        if queue and (-len(missing), index) > queue[0]:
            heapq.heappush(queue, (-len(missing), index))
            continue
        chosen.append(index)
        covered |= missing
    return sorted(chosen)
