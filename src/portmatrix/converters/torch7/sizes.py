"""Sizes of dimensions while a network is walked: numbers, or symbols such as the batch, and what is known of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from portmatrix.converters.errors import ConversionError
from portmatrix.converters.network import BATCH


class Symbol(NamedTuple):
    """``factor`` times a size that is only known when the network runs."""

    name: str
    factor: int = 1


Size = int | Symbol
Sizes = tuple[Size, ...]

BATCH_SIZE = Symbol(BATCH)
_UNKNOWN = "?"
_numbers = itertools.count()


class SizeNeeded(ConversionError):
    """A layer cannot be translated without the number of a size that is not known."""


class Mismatch(ConversionError):
    """A layer cannot read what the layers before it give: the assumed size of the network's input is wrong."""


def unknown() -> Symbol:
    """Return a size that nothing is known about, different from every other."""
    return Symbol(f"{_UNKNOWN}{next(_numbers)}")


def product(sizes: Sequence[Size]) -> Size:
    """Return the product: a number, a multiple of one symbol, or a size that nothing is known about."""
    factor, symbols = 1, []
    for size in sizes:
        if isinstance(size, Symbol):
            factor *= size.factor
            symbols.append(size)
        else:
            factor *= size
    if not symbols:
        return factor
    if len(symbols) == 1:
        return Symbol(symbols[0].name, factor)
    return unknown()


def quotient(size: Size, divisor: int) -> Size | None:
    """Return ``size / divisor``, or None where that is no whole number; of an unknown size it is unknown."""
    if divisor == 0:
        return None
    if isinstance(size, int):
        return size // divisor if size % divisor == 0 else None
    if size.factor % divisor == 0:
        return Symbol(size.name, size.factor // divisor)
    return unknown() if is_unknown(size) else None


def is_unknown(size: Size) -> bool:
    """Return whether a size is neither a number nor the batch, so that any number may be behind it."""
    return isinstance(size, Symbol) and size.name != BATCH


def agree(one: Size, other: Size) -> bool:
    """Return whether two sizes can be the same."""
    if is_unknown(one) or is_unknown(other):
        return True
    return one == other


def stated(sizes: Sequence[Size]) -> list[int | str | None]:
    """Return the sizes as an ONNX shape: numbers, names, and None for what is neither."""
    return [
        size if isinstance(size, int) else (None if size.factor != 1 or size.name.startswith(_UNKNOWN) else size.name)
        for size in sizes
    ]


def written(sizes: Sequence[Size]) -> str:
    """Return the sizes for a message, such as ``batch x 3 x 32 x 32``."""
    texts = []
    for size in sizes:
        if isinstance(size, int):
            texts.append(str(size))
        else:
            name = _UNKNOWN if size.name.startswith(_UNKNOWN) else size.name
            texts.append(name if size.factor == 1 else f"{size.factor}*{name}")
    return " x ".join(texts) or "no dimension"
