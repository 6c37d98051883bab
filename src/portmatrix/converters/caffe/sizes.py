"""Sizes of blobs: numbers, or multiples of symbols such as the batch, each with the value the network file declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Size:
    """``factor`` times the product of ``symbols``; ``declared`` is what that is for the sizes in the network file."""

    factor: Fraction
    symbols: tuple[str, ...]
    declared: int

    @property
    def fixed(self) -> bool:
        """Whether the size is a number, the same for every batch."""
        return not self.symbols

    @property
    def dimension(self) -> int | str | None:
        """The size as an ONNX dimension: a number, the name of a symbol, or None for what has no name of its own."""
        if self.fixed:
            return self.declared
        return self.symbols[0] if self.factor == 1 and len(self.symbols) == 1 else None

    def __mul__(self, other: Size) -> Size:
        symbols = tuple(sorted(self.symbols + other.symbols))
        return Size(self.factor * other.factor, symbols, self.declared * other.declared)

    def over(self, other: Size) -> Size | None:
        """Return the quotient, or None if it is no multiple of symbols or no whole number for the declared sizes."""
        left = list(self.symbols)
        for symbol in other.symbols:
            if symbol not in left:
                return None
            left.remove(symbol)
        if not other.declared or self.declared % other.declared:
            return None
        return Size(self.factor / other.factor, tuple(left), self.declared // other.declared)


Shape = tuple[Size, ...]


def number(value: int) -> Size:
    """Return a size that is the same for every batch."""
    return Size(Fraction(value), (), value)


def symbol(name: str, declared: int) -> Size:
    """Return the size ``name``, which the file declares as ``declared``."""
    return Size(Fraction(1), (name,), declared)


def count(shape: Iterable[Size]) -> Size:
    """Return the number of elements, Caffe's ``Blob::count``."""
    total = number(1)
    for size in shape:
        total *= size
    return total


def total(sizes: Iterable[Size], name: str) -> Size:
    """Return the sum of sizes, under the new symbol ``name`` if it is no multiple of the symbols in it."""
    sizes = list(sizes)
    declared = sum(size.declared for size in sizes)
    if len({size.symbols for size in sizes}) == 1:
        return Size(sum((size.factor for size in sizes), Fraction(0)), sizes[0].symbols, declared)
    return symbol(name, declared)


def declared(shape: Iterable[Size]) -> tuple[int, ...]:
    """Return the shape for the sizes that the file declares."""
    return tuple(size.declared for size in shape)


def shown(shape: Iterable[Size] | Iterable[int]) -> str:
    """Return a shape as Caffe prints it: ``10 3 224 224``."""
    return " ".join(str(size.declared if isinstance(size, Size) else size) for size in shape) or "()"


def numbers(shape: Iterable[int], symbols: Mapping[int, str] | None = None) -> Shape:
    """Return a shape of numbers, but for the axes that ``symbols`` names."""
    names = symbols or {}
    return tuple(symbol(names[axis], size) if axis in names else number(size) for axis, size in enumerate(shape))
