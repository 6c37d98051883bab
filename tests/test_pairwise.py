"""The pairwise choice: it covers every pair that meets, takes no point that adds nothing, and is small."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from portmatrix.pairwise import Point, covering, pairs_of

points = st.lists(st.tuples(*[st.sampled_from("abcd")] * 4), max_size=60)


def pairs(some: list[Point]) -> set[object]:
    return {pair for point in some for pair in pairs_of(point)}


@given(points, points)
def test_every_pair_that_meets_meets_in_a_chosen_point_or_a_given_one(some: list[Point], other: list[Point]) -> None:
    chosen = covering(some, other)
    assert chosen == sorted(set(chosen))
    assert pairs([some[index] for index in chosen]) | pairs(other) >= pairs(some)


@given(points)
def test_nothing_is_chosen_that_what_is_given_covers(some: list[Point]) -> None:
    assert covering(some, some) == []


@given(points)
def test_it_is_the_greedy_choice(some: list[Point]) -> None:
    # Written down as the rule says it: of what adds most the first, until nothing adds anything.
    left, chosen = pairs(some), []
    while left:
        gains = [len(left & pairs([point])) for point in some]
        chosen.append(gains.index(max(gains)))
        left -= pairs([some[chosen[-1]]])
    assert covering(some) == sorted(chosen)


def test_of_a_full_product_few_are_chosen() -> None:
    everything = [tuple(point) for point in product("abcd", repeat=5)]
    # 4 x 4 is the least that any choice can do; an orthogonal array does it with 16.
    assert 16 <= len(covering(everything)) <= 28


def test_a_value_is_a_value_of_its_axis_only() -> None:
    assert covering([("a", "b"), ("b", "a")]) == [0, 1]
