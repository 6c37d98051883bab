"""Where the batch lies in a tensor, and where it may lie in another shape."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmatrix.converters.cntk.values import ONE, Count, Place, Value, around, places, product

TIME = Count(1, ("Sequence",))


def shape(*sizes: int | Count) -> tuple[Count, ...]:
    """Return a shape of numbers and symbols."""
    return tuple(size if isinstance(size, Count) else Count(size) for size in sizes)


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        (Value("x", shape(1, 2, 12), Place(0)), shape(1, 4, 6), Place(0)),
        (Value("x", shape(TIME, 1, 8), Place(1)), shape(TIME, 1, 1, 8), Place(1)),
        (Value("x", shape(TIME, 1, 1, 8), Place(2)), shape(TIME, 1, 8), Place(1)),
        (Value("x", shape(1, 64), Place(0)), shape(1, 1, 64), Place(0)),
        # No axis for the batch: it is part of the first one, before what else that holds.
        (Value("x", shape(1, 2, 3), Place(0)), shape(2, 3), Place(0, Count(2))),
        (Value("x", shape(TIME, 1, 8), Place(1)), shape(TIME, 8), Place(0)),
        (Value("x", shape(TIME, 8), Place(0)), shape(TIME, 1, 8), Place(1)),
    ],
)
def test_the_batch_keeps_its_place_in_the_order_of_elements(
    before: Value, after: tuple[Count, ...], place: Place
) -> None:
    """The likeliest place is the first."""
    assert places(*around(before), after)[0] == place


def test_a_shape_that_parts_the_batch_has_no_place_for_it() -> None:
    """Elements before and behind the batch in one length that is not their product."""
    assert places(Count(3), Count(4), shape(2, 6)) == []
    assert places(TIME, ONE, shape(4)) == []


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_a_place_that_is_found_is_right(sizes: list[int], data: st.DataObject) -> None:
    """With a batch of 5 in it, the elements before and behind are as many as they were."""
    axis = data.draw(st.integers(0, len(sizes)))
    given_shape = [*sizes[:axis], 1, *sizes[axis:]]
    value = Value("x", shape(*given_shape), Place(axis))
    before, behind = around(value)
    assert (before, behind) == (Count(prod(sizes[:axis])), Count(prod(sizes[axis:])))
    for place in places(before, behind, shape(*sizes)):
        merged = Value("y", shape(*sizes), place)
        assert around(merged) == (before, behind)
        assert product(merged.shape) == before.times(behind)
