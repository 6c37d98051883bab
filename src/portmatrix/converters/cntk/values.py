"""Where the batch lies in a tensor: CNTK's files have a batch of 1, so this is what has to be known to make it any.

A tensor keeps its elements in one order whatever it is reshaped to. So the batch has a place in that order: behind so
many elements and before so many. A shape fits if one of its axes of length 1 stands at that place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Count(NamedTuple):
    """A number of elements: ``number`` times the symbols, which stand for lengths that the file does not fix."""

    number: int
    symbols: tuple[str, ...] = ()

    def times(self, other: Count) -> Count:
        """Return the product."""
        return Count(self.number * other.number, tuple(sorted(self.symbols + other.symbols)))

    def over(self, other: Count) -> Count | None:
        """Return the quotient, or None if there is no whole one."""
        if other.number == 0 or self.number % other.number:
            return None
        left = Counter(self.symbols)
        left.subtract(other.symbols)
        if any(count < 0 for count in left.values()):
            return None
        return Count(self.number // other.number, tuple(sorted(left.elements())))

    @property
    def known(self) -> bool:
        """Whether it is a plain number."""
        return not self.symbols

    def __str__(self) -> str:
        return "*".join([*([str(self.number)] if self.number != 1 or self.known else []), *self.symbols])


ONE = Count(1)
Shape = tuple[Count, ...]


def product(counts: Iterable[Count]) -> Count:
    """Return the product of all counts, 1 for none."""
    result = ONE
    for count in counts:
        result = result.times(count)
    return result


class Place(NamedTuple):
    """The axis that holds the batch, and how many elements of that axis lie behind it: 1 if the axis is the batch alone
    or has it last.
    """

    axis: int
    inner: Count = ONE


class Value(NamedTuple):
    """A tensor of the file: its shape at a batch of 1, and where its batch is in the network that is being built.

    ``name`` is the tensor there. ``place`` is None for what does not depend on the batch. ``origin`` is set for a
    reshaped tensor that does not stand in the network yet: ``name`` is then only what it will be called after.
    ``measures`` is set for the shape of another tensor.
    """

    name: str
    shape: Shape
    place: Place | None = None
    origin: Value | None = None
    measures: Value | None = None

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def own_axis(self) -> bool:
        """Whether the batch has an axis of its own."""
        return self.place is not None and self.shape[self.place.axis] == ONE


def around(value: Value) -> tuple[Count, Count]:
    """Return how many elements lie before and behind the batch in the order of a tensor that depends on it."""
    assert value.place is not None
    axis, inner = value.place
    outer = value.shape[axis].over(inner)
    assert outer is not None
    before = product(value.shape[:axis]).times(outer)
    return before, inner.times(product(value.shape[axis + 1 :]))


def places(before: Count, behind: Count, shape: Sequence[Count]) -> list[Place]:
    """Return where the batch may be in a tensor of ``shape``, likeliest first; empty if there is no such place.

    CNTK puts the batch first, and second behind a time axis, which is symbolic.
    """
    alone = [
        Place(axis)
        for axis, size in enumerate(shape)
        if size == ONE and product(shape[:axis]) == before and product(shape[axis + 1 :]) == behind
    ]
    usual = 1 if shape and not shape[0].known else 0
    alone.sort(key=lambda place: (place.axis != usual, place.axis))
    if alone:
        return alone
    for axis, size in enumerate(shape):
        outer = before.over(product(shape[:axis]))
        inner = behind.over(product(shape[axis + 1 :]))
        if outer is not None and inner is not None and outer.times(inner) == size:
            return [Place(axis, inner)]
    return []
